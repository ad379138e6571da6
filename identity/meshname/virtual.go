package meshname

import (
	"fmt"
	"hash/fnv"
)

// VirtualRange holds the addresses of the names that captured services may call. They are of the loopback interface: a
// packet to one never leaves the machine, with rules of the kernel or without.
const VirtualRange = "127.64.0.0/10"

// VirtualAddress is the address of a name, the try-th (from 0) where those before are another's.
func VirtualAddress(name string, try int) string {
	hash := fnv.New32a()
	fmt.Fprintf(hash, "%s/%d", name, try)
	n := hash.Sum32()
	n ^= n >> 16 // the low bits of FNV are its weakest
	return fmt.Sprintf("127.%d.%d.%d", 64+n>>16&63, n>>8&255, n&255)
}
