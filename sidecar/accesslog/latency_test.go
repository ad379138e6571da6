package accesslog

import (
	"testing"
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"google.golang.org/protobuf/types/known/durationpb"
)

// TestInService: a client that is slow to send, or to read, is not a slow service; who hung up tells how long it waited.
func TestInService(t *testing.T) {
	ms := func(n int) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Millisecond) }
	for name, test := range map[string]struct {
		common     *datav3.AccessLogCommon
		service    time.Duration
		unanswered bool
	}{
		"a slow client":           {&datav3.AccessLogCommon{TimeToLastUpstreamTxByte: ms(5000), TimeToFirstUpstreamRxByte: ms(5007), Duration: ms(9000)}, 7 * time.Millisecond, false},
		"a client that hung up":   {&datav3.AccessLogCommon{TimeToLastUpstreamTxByte: ms(10), Duration: ms(3010)}, 3 * time.Second, true},
		"it never got there":      {&datav3.AccessLogCommon{Duration: ms(3)}, 0, false},
		"not whole when it ended": {&datav3.AccessLogCommon{TimeToFirstUpstreamTxByte: ms(1), Duration: ms(3000)}, 0, false},
		"an early answer":         {&datav3.AccessLogCommon{TimeToLastUpstreamTxByte: ms(500), TimeToFirstUpstreamRxByte: ms(2), Duration: ms(501)}, 0, false},
		"nothing at all":          {&datav3.AccessLogCommon{}, 0, false},
	} {
		e := decoded(t, &datav3.HTTPAccessLogEntry{CommonProperties: test.common})
		if service, unanswered := e.inService(); service != test.service || unanswered != test.unanswered {
			t.Errorf("%s: %v, unanswered %v", name, service, unanswered)
		}
	}
}
