package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	logs "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/protobuf/proto"
)

// Bounds of a request.
const (
	patience    = 10 * time.Second
	maxAnswer   = 64 << 10 // bytes
	maxPatience = 10 * time.Minute
)

// ParseURL parses where a receiver is: http(s)://host:port, or with a path instead of /v1/logs.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("it must be a URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("it must be http(s)://host:port or http(s)://host:port/path, without a user, a query or a fragment (got %q)", u.Redacted())
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/v1/logs"
	}
	return u, nil
}

// ParseHeader parses a header as OTEL_EXPORTER_OTLP_HEADERS has it: name=value,name=value, with values percent-encoded.
func ParseHeader(text string) (http.Header, error) {
	header := http.Header{}
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if name = strings.TrimSpace(name); !ok || name == "" || err != nil {
			return nil, errors.New("headers must be name=value,name=value, with values percent-encoded") // they are secrets
		}
		header.Add(name, value)
	}
	return header, nil
}

// errRefused is an answer that the same request will always get: fewer records at once may pass.
var errRefused = errors.New("the receiver refuses the records")

// unavailable is an answer after which to try again.
type unavailable struct {
	why   string
	after time.Duration // at the earliest; 0: it was not said
}

func (u unavailable) Error() string { return u.why }

// send hands over records, and returns how many of them the receiver refused for good.
func (s *Sink) send(ctx context.Context, records []*logs.LogRecord) (refused int64, err error) {
	refused, err = s.post(ctx, records)
	if !errors.Is(err, errRefused) {
		return refused, err
	}
	if len(records) == 1 {
		return 1, nil
	}
	half := len(records) / 2
	for _, part := range [][]*logs.LogRecord{records[:half], records[half:]} {
		n, err := s.send(ctx, part)
		if refused += n; err != nil {
			return refused, err
		}
	}
	return refused, nil
}

func (s *Sink) post(ctx context.Context, records []*logs.LogRecord) (refused int64, err error) {
	body, err := proto.Marshal(&collector.ExportLogsServiceRequest{ResourceLogs: []*logs.ResourceLogs{{
		Resource: s.resource, ScopeLogs: []*logs.ScopeLogs{{Scope: s.scope, LogRecords: records}},
	}}})
	if err != nil {
		return 0, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL.String(), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	for name, values := range s.Header {
		request.Header[name] = values
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	answer, err := s.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	switch {
	case answer.StatusCode == http.StatusBadRequest, answer.StatusCode == http.StatusRequestEntityTooLarge, answer.StatusCode == http.StatusUnprocessableEntity:
		return 0, errRefused
	case answer.StatusCode/100 != 2: // also what an operator will put right, such as 401 or 404: the events are still kept
		return 0, unavailable{"the receiver answers " + answer.Status, retryAfter(answer.Header.Get("Retry-After"), time.Now())}
	case err != nil:
		return 0, err
	}
	var said collector.ExportLogsServiceResponse
	if proto.Unmarshal(text, &said) != nil { // it took them, and says so in its own way
		return 0, nil
	}
	return min(max(0, said.GetPartialSuccess().GetRejectedLogRecords()), int64(len(records))), nil
}

// retryAfter reads the header, in seconds or as a date, up to a bound; 0 when it does not say.
func retryAfter(text string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return min(max(0, time.Duration(seconds)*time.Second), maxPatience)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(0, at.Sub(now)), maxPatience)
	}
	return 0
}
