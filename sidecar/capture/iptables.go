package capture

import (
	"fmt"
	"slices"
	"strings"
)

// chainPrefix makes names of ours of those of chains.
const chainPrefix = "TENANTMESH_"

// IPTablesScript is what iptables-restore, or for v6 ip6tables-restore, reads with --noflush. Each table of it is one
// transaction. jumped reports whether the kernel's chain leads to ours already.
func IPTablesScript(chains []Chain, v6 bool, jumped func(Jump) bool) string {
	var b strings.Builder
	for _, nat := range []bool{true, false} {
		fmt.Fprintf(&b, "*%s\n", iptablesTable(nat))
		for _, chain := range chains {
			if chain.NAT == nat {
				fmt.Fprintf(&b, ":%s - [0:0]\n", ourChain(chain)) // made, or emptied
			}
		}
		for _, chain := range chains {
			if chain.NAT != nat {
				continue
			}
			for _, rule := range chain.Rules {
				for _, match := range iptablesMatch(rule, v6) {
					fmt.Fprintf(&b, "-A %s %s-m comment --comment %q -j %s\n", ourChain(chain), match, rule.Why, iptablesVerdict(rule))
				}
			}
			if jump := jumpTo(chain); !jumped(jump) {
				fmt.Fprintf(&b, "-I %s 1 -j %s\n", jump.From, jump.To)
			}
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// IPTablesRemoval is what takes the jumps that there are, and our chains that there are, away again.
func IPTablesRemoval(chains []Chain, jumped func(Jump) bool, exists func(table, chain string) bool) string {
	var b strings.Builder
	for _, nat := range []bool{true, false} {
		table := iptablesTable(nat)
		fmt.Fprintf(&b, "*%s\n", table)
		for _, chain := range chains {
			if chain.NAT != nat || !exists(table, ourChain(chain)) {
				continue
			}
			if jump := jumpTo(chain); jumped(jump) {
				fmt.Fprintf(&b, "-D %s -j %s\n", jump.From, jump.To)
			}
			fmt.Fprintf(&b, "-F %[1]s\n-X %[1]s\n", ourChain(chain))
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

// Jump is how a chain of the kernel's leads to one of ours.
type Jump struct{ Table, From, To string }

func jumpTo(c Chain) Jump { return Jump{iptablesTable(c.NAT), strings.ToUpper(c.Hook), ourChain(c)} }

func ourChain(c Chain) string { return chainPrefix + strings.ToUpper(c.Name) }

func iptablesTable(nat bool) string {
	if nat {
		return "nat"
	}
	return "filter"
}

// iptablesMatch is a rule's match, in as many rules as it takes.
func iptablesMatch(r Rule, v6 bool) (matches []string) {
	each := func(format string) []string {
		list := make([]string, len(r.Values))
		for i, value := range r.Values {
			list[i] = fmt.Sprintf(format, value)
		}
		return list
	}
	switch r.Match {
	case Everything:
		return []string{"-p tcp "}
	case Users:
		return each("-m owner --uid-owner %s ")
	case NotUsers: // "! --uid-owner" is true of what has no socket
		match := "-p tcp -m owner --socket-exists "
		for _, uid := range r.Values {
			match += "-m owner ! --uid-owner " + uid + " "
		}
		return []string{match}
	case ToPorts:
		return each("-p tcp --dport %s ")
	case FromPorts:
		return each("-p tcp --sport %s ")
	case To, From:
		flag := map[Match]string{To: "-d", From: "-s"}[r.Match]
		r.Values = slices.DeleteFunc(slices.Clone(r.Values), func(cidr string) bool { return isV6(cidr) != v6 })
		return each("-p tcp " + flag + " %s ")
	case ToMachine:
		return []string{"-m addrtype --dst-type LOCAL "}
	case PastMachine:
		return []string{"-m addrtype ! --dst-type LOCAL "}
	case ByLoopback:
		return []string{"-i lo "}
	case Replies:
		return []string{"-m conntrack --ctdir REPLY "}
	case Questions:
		return []string{"-p udp --dport 53 "}
	}
	return nil
}

func iptablesVerdict(r Rule) string {
	switch r.Verdict {
	case Redirect:
		return fmt.Sprintf("REDIRECT --to-ports %d", r.Port)
	case Reset:
		return "REJECT --reject-with tcp-reset"
	case Pass:
	}
	return "RETURN"
}
