package capture

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/tenantmesh/tenantmesh/identity/meshname"
)

// Rule is one rule: to what it applies, and what happens. A chain ends at the first that applies; what reaches its end
// passes.
type Rule struct {
	Match   Match
	Values  []string // of the match, any one of them
	Verdict Verdict
	Port    int    // of Redirect
	Why     string // in words
}

// Match says what a rule looks at.
type Match string

// The matches. All are about TCP, but for Questions.
const (
	Everything  Match = "everything"
	Users       Match = "users"       // who sends, by uid; what has no socket is nobody's
	NotUsers    Match = "not-users"   // a socket's owner is none of them; what has no socket does not match
	ToPorts     Match = "to-ports"    //
	FromPorts   Match = "from-ports"  //
	To          Match = "to"          // CIDRs
	From        Match = "from"        // CIDRs
	ToMachine   Match = "to-machine"  // an address of this machine's own
	PastMachine Match = "past"        // no address of this machine's own: it passes through
	ByLoopback  Match = "by-loopback" // it arrives by the loopback interface
	Replies     Match = "replies"     // of connections that the other side began
	Questions   Match = "questions"   // for names: UDP, port 53
)

// Verdict says what happens.
type Verdict string

// The verdicts.
const (
	Pass     Verdict = "pass"
	Redirect Verdict = "redirect"
	Reset    Verdict = "reset"
)

// Chain is a list of rules at one place in the kernel's way of a packet.
type Chain struct {
	Name  string
	Hook  string // output, prerouting, input
	NAT   bool   // asked once a connection, else for every packet
	Rules []Rule
}

// Rules are the rules of a configuration. The first two chains send connections to the sidecar; the others reset what
// left or arrived without having been sent there: connections that are older than the rules, most of all.
func Rules(c Config) []Chain {
	own := numbers(append([]int{c.InboundPort, c.MetricsPort, c.HealthPort}, c.ExcludeInboundPorts...))
	users := numbers(append([]int{c.UID}, c.ExcludeUIDs...))
	called := some(
		Rule{ToPorts, numbers(c.ExcludeOutboundPorts), Pass, 0, "excluded ports"},
		Rule{To, prefixes(c.ExcludeOutboundCIDRs), Pass, 0, "excluded addresses"},
	)
	callers := some(Rule{From, prefixes(c.ExcludeInboundCIDRs), Pass, 0, "excluded callers"})
	outbound := []Rule{{Users, users, Pass, 0, "the sidecar's own, and excluded users"}}
	if c.DNSPort > 0 {
		outbound = append(outbound, Rule{Questions, nil, Redirect, c.DNSPort, "names"})
	}
	outbound = append(outbound,
		Rule{To, []string{meshname.VirtualRange}, Redirect, c.CapturedPort, "names of the mesh"},
		Rule{ToMachine, nil, Pass, 0, "this machine"})
	return []Chain{
		{"outbound", "output", true, slices.Concat(outbound, called, []Rule{{Everything, nil, Redirect, c.CapturedPort, "what the service calls"}})},
		{"inbound", "prerouting", true, slices.Concat([]Rule{
			{ByLoopback, nil, Pass, 0, "from this machine"},
			{PastMachine, nil, Pass, 0, "passing through"},
			{ToPorts, own, Pass, 0, "the sidecar's own ports, and excluded ones"},
		}, callers, []Rule{{Everything, nil, Redirect, c.InboundPort, "what calls the service"}})},
		{"guard_outbound", "output", false, slices.Concat([]Rule{
			{ToMachine, nil, Pass, 0, "this machine, and what was redirected"},
			{Replies, nil, Pass, 0, "answers to callers"},
			{FromPorts, own, Pass, 0, "answers to callers from before"},
		}, called, []Rule{{NotUsers, users, Reset, 0, "calls that were not redirected"}})},
		{"guard_inbound", "input", false, slices.Concat([]Rule{
			{ByLoopback, nil, Pass, 0, "from this machine"},
			{Replies, nil, Pass, 0, "answers to calls"},
			{ToPorts, own, Pass, 0, "the sidecar's own ports, what was redirected, and excluded ones"},
		}, callers, []Rule{{Everything, nil, Reset, 0, "calls that were not redirected"}})},
	}
}

// some are the rules that have values.
func some(rules ...Rule) []Rule {
	return slices.DeleteFunc(rules, func(r Rule) bool { return len(r.Values) == 0 })
}

// numbers are distinct and in order.
func numbers(list []int) []string {
	list = slices.Compact(slices.Sorted(slices.Values(list)))
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = strconv.Itoa(n)
	}
	return texts
}

// prefixes are distinct and in order; one within another is not named again, which nftables would refuse.
func prefixes(list []string) (texts []string) {
	var parsed []netip.Prefix
	for _, text := range list {
		if p, err := netip.ParsePrefix(text); err == nil {
			parsed = append(parsed, p.Masked())
		}
	}
	slices.SortFunc(parsed, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	for i, p := range parsed {
		if !slices.ContainsFunc(parsed[:i], func(wider netip.Prefix) bool { return wider.Contains(p.Addr()) }) {
			texts = append(texts, p.String())
		}
	}
	return texts
}

// isV6 reports whether a CIDR is of IPv6.
func isV6(cidr string) bool {
	p, err := netip.ParsePrefix(cidr)
	return err == nil && p.Addr().Is6()
}

func compare(a, b string) int { return cmp.Compare(a, b) }
