package capture

import (
	"fmt"
	"strings"
)

// table is ours alone: removal is complete because nothing of ours lies elsewhere.
const table = "tenantmesh"

// NFTablesScript is what nft reads ("nft -f -"): one transaction that puts the rules in the place of those that there are.
func NFTablesScript(chains []Chain) string {
	var b strings.Builder
	// Made first, so that there is one to delete.
	fmt.Fprintf(&b, "table inet %[1]s\ndelete table inet %[1]s\ntable inet %[1]s {\n", table)
	for _, chain := range chains {
		kind := "filter"
		priority := 0
		if chain.NAT {
			kind, priority = "nat", -100
		}
		fmt.Fprintf(&b, "\tchain %s {\n\t\ttype %s hook %s priority %d; policy accept;\n", chain.Name, kind, chain.Hook, priority)
		for _, rule := range chain.Rules {
			for _, match := range nftMatch(rule) {
				fmt.Fprintf(&b, "\t\t%s%s comment %q\n", match, nftVerdict(rule), rule.Why)
			}
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

// nftMatch is a rule's match; two where it is about addresses of both families.
func nftMatch(r Rule) []string {
	set := "{ " + strings.Join(r.Values, ", ") + " } "
	switch r.Match {
	case Everything:
		return []string{"meta l4proto tcp "}
	case Users:
		return []string{"meta skuid " + set}
	case NotUsers:
		return []string{"meta l4proto tcp meta skuid != " + set}
	case ToPorts:
		return []string{"tcp dport " + set}
	case FromPorts:
		return []string{"tcp sport " + set}
	case To:
		return byFamily(r.Values, "daddr")
	case From:
		return byFamily(r.Values, "saddr")
	case ToMachine:
		return []string{"fib daddr type local "}
	case PastMachine:
		return []string{"fib daddr type != local "}
	case ByLoopback:
		return []string{`iifname "lo" `}
	case Replies:
		return []string{"ct direction reply "}
	case Questions:
		return []string{"udp dport 53 "}
	}
	return nil
}

func byFamily(cidrs []string, field string) (matches []string) {
	of := map[bool][]string{}
	for _, cidr := range cidrs {
		of[isV6(cidr)] = append(of[isV6(cidr)], cidr)
	}
	for _, family := range []struct {
		v6   bool
		name string
	}{{false, "ip"}, {true, "ip6"}} {
		if list := of[family.v6]; len(list) > 0 {
			matches = append(matches, fmt.Sprintf("meta l4proto tcp %s %s { %s } ", family.name, field, strings.Join(list, ", ")))
		}
	}
	return matches
}

func nftVerdict(r Rule) string {
	switch r.Verdict {
	case Redirect:
		return fmt.Sprintf("redirect to :%d", r.Port)
	case Reset:
		return "reject with tcp reset"
	case Pass:
	}
	return "return"
}
