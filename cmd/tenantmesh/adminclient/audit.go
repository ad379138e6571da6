package adminclient

import (
	"context"
	"fmt"
	"net/http"

	"github.com/tenantmesh/tenantmesh/ledger"
)

// Audit reads every audit event, oldest first, and shows it. broken is where the chain of them is broken first, nil for
// nowhere: an event that does not follow the one before, or an end that is not the one that the store keeps.
func (c *Client) Audit(ctx context.Context, show func(ledger.Event)) (broken, err error) {
	var end, at ledger.Head
	if err := c.call(ctx, http.MethodGet, "/audit/head", nil, &end); err != nil {
		return nil, err
	}
	for last := int64(0); ; {
		var events []ledger.Event
		if err := c.call(ctx, http.MethodGet, fmt.Sprintf("/audit?after=%d&limit=1000", last), nil, &events); err != nil {
			return broken, err
		}
		for _, event := range events {
			show(event)
			if event.Sequence <= last {
				return fmt.Errorf("audit event %d comes after event %d", event.Sequence, last), nil
			}
			last = event.Sequence
			if broken != nil {
				continue
			}
			if at, broken = at.Verify([]ledger.Event{event}); broken == nil && at.Sequence == end.Sequence && at != end {
				broken = fmt.Errorf("audit event %d is not the one that the store keeps as its end: the chain was written anew", at.Sequence)
			}
		}
		if len(events) == 0 {
			break
		}
	}
	if broken == nil && at.Sequence < end.Sequence {
		broken = fmt.Errorf("the chain ends with event %d, and the store knows of %d: those after it were taken out", at.Sequence, end.Sequence)
	}
	return broken, nil
}
