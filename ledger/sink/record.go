package sink

import (
	"encoding/json"
	"strings"
	"time"

	common "go.opentelemetry.io/proto/otlp/common/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"

	"github.com/tenantmesh/tenantmesh/ledger"
	"github.com/tenantmesh/tenantmesh/ledger/trail"
)

// prefix is what attributes, and the names of events, begin with: docs/audit.md has them.
const prefix = "tenantmesh.audit."

// Severities, as OpenTelemetry has them.
var severities = map[logs.SeverityNumber]string{
	logs.SeverityNumber_SEVERITY_NUMBER_INFO: "INFO", logs.SeverityNumber_SEVERITY_NUMBER_WARN: "WARN", logs.SeverityNumber_SEVERITY_NUMBER_ERROR: "ERROR",
}

// decided is a kept event of a decision as a log record. Its body is the very bytes that were hashed.
func decided(p *trail.Placed) *logs.LogRecord {
	var e trail.Event
	_ = json.Unmarshal(p.Event, &e) // what cannot be read is sent as it is
	severity := logs.SeverityNumber_SEVERITY_NUMBER_INFO
	switch {
	case e.Kind == trail.Gap || e.Kind == trail.Restart:
		severity = logs.SeverityNumber_SEVERITY_NUMBER_ERROR
	case !e.Allowed || e.BreakGlass:
		severity = logs.SeverityNumber_SEVERITY_NUMBER_WARN
	}
	r := record(string(e.Kind), e.Time, severity, string(p.Event))
	texts(r, "tenant", p.Tenant, "tenantUid", p.TenantUID, "member", p.Member, "decision", e.Decision, "point", e.Point, "cell", e.Cell, "workload", e.Workload, "principal", e.Principal,
		"method", e.Method, "path", e.Path, "txn", e.Txn, "reason", e.Reason, "detail", e.Detail, "rule", e.Rule, "grant", e.Grant, "purpose", e.Purpose, "hash", p.Hash)
	numbers(r, "sequence", e.Sequence, "suppressed", e.Suppressed, "lost", e.Lost, "revision", e.Revision, "epoch", e.Epoch)
	times(r, "from", e.From, "to", e.To)
	if e.Kind == trail.Decision {
		truth(r, "allowed", e.Allowed)
	}
	if e.BreakGlass {
		truth(r, "breakGlass", true)
	}
	return r
}

// administered is an administrative event as a log record.
func administered(e *ledger.Event) (*logs.LogRecord, error) {
	text, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	r := record("administrative", e.Time, logs.SeverityNumber_SEVERITY_NUMBER_INFO, string(text))
	texts(r, "actor", e.Actor, "action", e.Action, "object", e.Object, "tenant", e.Tenant, "detail", e.Detail, "hash", e.Hash)
	numbers(r, "sequence", e.Sequence, "revision", e.Revision)
	return r, nil
}

// missed says where events would have been that went away before the receiver took them.
func missed(uid string, m trail.Missing, now time.Time) *logs.LogRecord {
	text := "audit events went away before they were taken from here"
	if m.Unknown {
		text += "; how many, is not known, for nobody followed then"
	}
	r := record("missed", now, logs.SeverityNumber_SEVERITY_NUMBER_ERROR, text)
	texts(r, "tenantUid", uid)
	numbers(r, "lost", m.Events)
	times(r, "from", m.From, "to", m.To)
	if m.Unknown {
		truth(r, "unknown", true)
	}
	return r
}

func record(kind string, at time.Time, severity logs.SeverityNumber, body string) *logs.LogRecord {
	r := &logs.LogRecord{ObservedTimeUnixNano: uint64(time.Now().UnixNano()), EventName: prefix + kind, SeverityNumber: severity, SeverityText: severities[severity], Body: text(body)}
	if !at.IsZero() {
		r.TimeUnixNano = uint64(at.UnixNano())
	}
	texts(r, "kind", kind)
	return r
}

// text is a value; what a member reported may be no UTF-8, which protobuf does not take.
func text(s string) *common.AnyValue {
	return &common.AnyValue{Value: &common.AnyValue_StringValue{StringValue: strings.ToValidUTF8(s, "\ufffd")}}
}

func attribute(r *logs.LogRecord, name string, value *common.AnyValue) {
	r.Attributes = append(r.Attributes, &common.KeyValue{Key: prefix + name, Value: value})
}

// texts adds attributes, given as names and values, that are not empty.
func texts(r *logs.LogRecord, pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			attribute(r, pairs[i], text(pairs[i+1]))
		}
	}
}

// numbers adds attributes, given as names and values, that are not 0.
func numbers(r *logs.LogRecord, pairs ...any) {
	for i := 0; i < len(pairs); i += 2 {
		if n := pairs[i+1].(int64); n != 0 {
			attribute(r, pairs[i].(string), &common.AnyValue{Value: &common.AnyValue_IntValue{IntValue: n}})
		}
	}
}

// times adds two attributes, as RFC 3339 has them, unless they are not set.
func times(r *logs.LogRecord, first string, from time.Time, second string, to time.Time) {
	if !from.IsZero() {
		texts(r, first, from.Format(time.RFC3339Nano), second, to.Format(time.RFC3339Nano))
	}
}

func truth(r *logs.LogRecord, name string, value bool) {
	attribute(r, name, &common.AnyValue{Value: &common.AnyValue_BoolValue{BoolValue: value}})
}
