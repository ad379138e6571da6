package xds

import (
	"time"

	"github.com/tenantmesh/tenantmesh/identity"
	"github.com/tenantmesh/tenantmesh/xds/server"
)

// Bounds of what is kept of members' words, of each sort.
const (
	maxSaid     = 512            // of one member
	maxSaidOf   = 8192           // of all members of one principal: whoever holds one identity may join many times
	maxSaidAll  = 50_000         // of all
	maxSaidText = 1024           // bytes of one text
	maxSaidGone = 24 * time.Hour // after a member's stream ended
)

// room is how many entries a member may have beside those of the others.
func room[V interface {
	size() (identity.Principal, int)
}](said map[string]V, peer *server.Peer) int {
	left, own := maxSaidAll, maxSaidOf
	for other, v := range said {
		if other == peer.Hello.MemberId {
			continue
		}
		by, n := v.size()
		left -= n
		if by == peer.Principal {
			own -= n
		}
	}
	return max(0, min(left, own))
}

// forgetSaid lets go of what members said that are gone for too long.
func (m *Members) forgetSaid(now time.Time) {
	for member, at := range m.gone {
		if now.Sub(at) > maxSaidGone {
			delete(m.shadows, member)
			delete(m.uses, member)
			delete(m.covered, member)
		}
	}
}
