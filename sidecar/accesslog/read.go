package accesslog

import (
	"slices"
	"strings"
	"time"

	"github.com/tenantmesh/tenantmesh/identity/propagation"
	"github.com/tenantmesh/tenantmesh/sidecar/decide"
	"github.com/tenantmesh/tenantmesh/sidecar/wire"
)

// message is a StreamAccessLogsMessage; of TCP entries there are none. Fields are told by their numbers in
// envoy/service/accesslog/v3/als.proto and envoy/data/accesslog/v3/accesslog.proto.
type message struct{ entries []entry }

// entry is what is looked at of one HTTPAccessLogEntry.
type entry struct {
	kind      int // AccessLogType
	flags     flags
	lease     string
	details   string // of the response's code
	status    int
	grpc      string // the trailer's, or else the header's
	reason    string
	received  uint64
	sent      uint64
	duration  elapsed
	lastTx    elapsed // to the last byte sent upstream
	firstRx   elapsed // to the first byte that came back
	delivered elapsed // to the last byte sent downstream
}

// elapsed is a time since the request began, if it came to that.
type elapsed struct {
	known bool
	time.Duration
}

const downstreamPeriodic = 5 // AccessLogType

// flags are a ResponseFlags: each bit is a field by its number.
type flags uint32

const (
	overflow     flags = 1 << 8 // of connections to the service
	unauthorized flags = 1 << 13
	// Whoever asked went away, or the check did not answer: what was asked has not been.
	aborted = unauthorized | 1<<15 /* downstream connection termination */ | 1<<19 /* downstream protocol error */ | 1<<28 /* downstream remote reset */
	// It was the other end that failed: it could not be reached, reset the stream, or took too long. An upstream overflow
	// is none: it says that this Envoy's own bound is reached.
	broken flags = 1<<2 /* no healthy upstream */ | 1<<3 /* upstream request timeout */ | 1<<4 /* local reset */ | 1<<5 /* upstream remote reset */ |
		1<<6 /* upstream connection failure */ | 1<<7 /* upstream connection termination */ | 1<<20 /* upstream max stream duration reached */ |
		1<<24 /* upstream protocol error */ | 1<<27 /* DNS resolution failure */
)

// DecodeWire implements [wire.Decoder].
func (m *message) DecodeWire(text string) error {
	m.entries = m.entries[:0]
	return wire.Each(text, func(number int, value string) error {
		if number != 2 { // StreamAccessLogsMessage.http_logs
			return nil
		}
		return wire.Each(value, func(number int, value string) error {
			if number != 1 { // HTTPAccessLogEntries.log_entry
				return nil
			}
			m.entries = append(m.entries, entry{})
			return m.entries[len(m.entries)-1].read(value)
		})
	})
}

func (e *entry) read(text string) error {
	return wire.Each(text, func(number int, value string) error {
		switch number {
		case 1: // HTTPAccessLogEntry.common_properties
			return e.readCommon(value)
		case 3: // request
			return e.readRequest(value)
		case 4: // response
			return e.readResponse(value)
		}
		return nil
	})
}

func (e *entry) readCommon(text string) error {
	r := wire.Read(text)
	var err error
	for err == nil && r.Next() {
		switch r.Number {
		case 8: // AccessLogCommon.time_to_last_upstream_tx_byte
			err = e.lastTx.read(r.Bytes)
		case 9: // time_to_first_upstream_rx_byte
			err = e.firstRx.read(r.Bytes)
		case 12: // time_to_last_downstream_tx_byte
			err = e.delivered.read(r.Bytes)
		case 16: // response_flags
			err = e.flags.read(r.Bytes)
		case 23: // duration
			err = e.duration.read(r.Bytes)
		case 33: // access_log_type
			e.kind = int(r.Value)
		}
	}
	if err != nil {
		return err
	}
	return r.Err
}

// read reads a google.protobuf.Duration.
func (d *elapsed) read(text string) error {
	d.known = true
	r := wire.Read(text)
	for r.Next() {
		switch r.Number {
		case 1:
			d.Duration += time.Duration(r.Value) * time.Second
		case 2:
			d.Duration += time.Duration(int32(r.Value)) //nolint:gosec // as the wire has an int32
		}
	}
	return r.Err
}

func (f *flags) read(text string) error {
	r := wire.Read(text)
	for r.Next() {
		if r.Number < 32 && (r.Value != 0 || flags(1)<<r.Number == unauthorized) { // that one is a message
			*f |= 1 << r.Number
		}
	}
	return r.Err
}

func (e *entry) readRequest(text string) error {
	r := wire.Read(text)
	for r.Next() {
		switch r.Number {
		case 11, 12: // HTTPRequestProperties.request_headers_bytes, request_body_bytes
			e.received += r.Value
		case 13: // request_headers
			name, value, err := wire.Entry(r.Bytes)
			if err != nil {
				return err
			}
			if name == propagation.HeaderLease {
				e.lease = value
			}
		}
	}
	return r.Err
}

func (e *entry) readResponse(text string) error {
	r := wire.Read(text)
	for r.Next() {
		switch r.Number {
		case 1: // HTTPResponseProperties.response_code
			code := wire.Read(r.Bytes)
			for code.Next() {
				e.status = int(uint32(code.Value)) //nolint:gosec // as the wire has a UInt32Value
			}
			if code.Err != nil {
				return code.Err
			}
		case 2, 3: // response_headers_bytes, response_body_bytes
			e.sent += r.Value
		case 4, 5: // response_headers, response_trailers
			name, value, err := wire.Entry(r.Bytes)
			if err != nil {
				return err
			}
			switch {
			case name == propagation.HeaderReason && r.Number == 4:
				e.reason = value
			case name == headerGRPCStatus && (r.Number == 5 || e.grpc == ""):
				e.grpc = value
			}
		case 6: // response_code_details
			e.details = r.Bytes
		}
	}
	return r.Err
}

// settled are the beginnings of what Envoy says of a response when its check is behind it, or when there was none.
var settled = []string{"via_upstream", "route_not_found", "direct_response", "upstream_", "response_timeout", "no_healthy_upstream", rbac}

// rbac is how it begins when Envoy's own rules refused what the check allowed.
const rbac = "rbac_access_denied"

const headerGRPCStatus = "grpc-status"

// ended is what an entry says of the end of a request.
func (e *entry) ended() decide.Ended {
	service, unanswered := e.inService()
	return decide.Ended{
		Lease: e.lease, Service: service, Unanswered: unanswered, Overflow: e.flags&overflow != 0,
		// A refusal by the check holds nothing, and has nothing to release; a check that failed may have admitted.
		Refused:       e.flags&unauthorized != 0 && e.details == "ext_authz_denied",
		Settled:       slices.ContainsFunc(settled, func(p string) bool { return strings.HasPrefix(e.details, p) }),
		Native:        strings.HasPrefix(e.details, rbac),
		Status:        e.status,
		GRPCStatus:    e.grpc,
		Reason:        e.reason,
		Aborted:       e.flags&aborted != 0,
		Broken:        e.flags&broken != 0,
		BytesReceived: int64(e.received), //nolint:gosec // of one request
		BytesSent:     int64(e.sent),     //nolint:gosec // of one request
		Duration:      e.delivered.Duration,
	}
}

// inService is how long the service thought: from the last byte that was sent to it to the first that came back, so that
// a client that sends or reads slowly is not taken for a slow service. Without an answer it is how long it was waited for. A
// service that answered before it had the whole request, as one does that streams, tells nothing.
func (e *entry) inService() (service time.Duration, unanswered bool) {
	switch {
	case !e.lastTx.known:
		return 0, false
	case e.firstRx.known:
		return max(0, e.firstRx.Duration-e.lastTx.Duration), false
	default:
		return max(0, e.duration.Duration-e.lastTx.Duration), true
	}
}
