package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
)

const (
	hostsBegin = "# tenantmesh: the names that this service may call; this part is written by its sidecar"
	hostsEnd   = "# tenantmesh: end"
)

// Hosts is a hosts file (hosts(5)) with the names of addresses, by name, in a part of its own; the rest is as it was.
func Hosts(file string, addresses map[string]string) string {
	var kept strings.Builder
	ours := false
	for line := range strings.Lines(file) {
		text := strings.TrimSpace(line)
		ours = ours || text == hostsBegin
		if !ours {
			kept.WriteString(line)
		}
		ours = ours && text != hostsEnd
	}
	text := kept.String()
	if len(addresses) == 0 {
		return text
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	text += hostsBegin + "\n"
	for _, name := range slices.Sorted(maps.Keys(addresses)) {
		text += fmt.Sprintf("%s\t%s\n", addresses[name], name)
	}
	return text + hostsEnd + "\n"
}

// WriteHosts does what [Hosts] says to a file, in place: a container's is a mount of its own, which cannot be replaced.
func WriteHosts(path string, addresses map[string]string) error {
	before, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	after := Hosts(string(before), addresses)
	if after == string(before) {
		return nil
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err = file.WriteAt([]byte(after), 0); err == nil {
		err = file.Truncate(int64(len(after)))
	}
	return errors.Join(err, file.Close())
}
