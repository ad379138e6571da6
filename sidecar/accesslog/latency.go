package accesslog

import (
	"time"

	datav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
)

// inService is how long the service thought: from the last byte that was sent to it to the first that came back, so that
// a client that sends or reads slowly is not taken for a slow service. Without an answer it is how long it was waited for. A
// service that answered before it had the whole request, as one does that streams, tells nothing.
func inService(common *datav3.AccessLogCommon) (service time.Duration, unanswered bool) {
	if common.GetTimeToLastUpstreamTxByte() == nil {
		return 0, false
	}
	sent := common.GetTimeToLastUpstreamTxByte().AsDuration()
	if common.GetTimeToFirstUpstreamRxByte() != nil {
		return max(0, common.GetTimeToFirstUpstreamRxByte().AsDuration()-sent), false
	}
	return max(0, common.GetDuration().AsDuration()-sent), true
}
