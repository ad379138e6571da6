package adversarial

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// answer is what came back. Status 0: no answer, and then Err may say why.
type answer struct {
	Status int
	Header http.Header
	Body   string
	Err    error
	More   int // answers after the first
}

func (a answer) reason() string { return a.Header.Get("x-tenantmesh-reason") }

// patience bounds what may be waited for in vain: a proxy that waits for the rest of a request.
const patience = 2 * time.Second

func dial(address string, as *tls.Certificate, protocol string) (net.Conn, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil || as == nil {
		return conn, err
	}
	secured := tls.Client(conn, &tls.Config{
		InsecureSkipVerify: true, // the attacker does not mind
		Certificates:       []tls.Certificate{*as}, NextProtos: []string{protocol}, MinVersion: tls.VersionTLS13,
	})
	if err := secured.Handshake(); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

// sendRaw writes bytes as they are, and then says that nothing follows.
func sendRaw(address string, as *tls.Certificate, text string) answer {
	conn, err := dial(address, as, "http/1.1")
	if err != nil {
		return answer{Err: err}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		return answer{Err: err}
	}
	reader := bufio.NewReader(conn)
	method, _, _ := strings.Cut(text, " ")
	var first answer
	for n := 0; ; n++ {
		response, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			if n == 0 {
				return answer{Err: err}
			}
			return first
		}
		if n > 0 {
			first.More++
			_, _ = io.Copy(io.Discard, response.Body)
			continue
		}
		first = answer{Status: response.StatusCode, Header: response.Header}
		if response.StatusCode == http.StatusSwitchingProtocols {
			_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			text, _ := io.ReadAll(reader)
			first.Body = string(text)
			return first
		}
		body, err := io.ReadAll(response.Body)
		first.Body = string(body)
		if err != nil || response.Close {
			return first
		}
		_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)) // whether another one comes
	}
}

// sendH2 sends one request by frames of HTTP/2, with header fields as they are.
func sendH2(address string, as *tls.Certificate, fields [][2]string, body string, trailers [][2]string) answer {
	conn, err := dial(address, as, "h2")
	if err != nil {
		return answer{Err: err}
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		return answer{Err: err}
	}
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encode := func(fields [][2]string) []byte {
		block.Reset()
		for _, f := range fields {
			_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		return bytes.Clone(block.Bytes())
	}
	headers := encode(fields)
	const most = 16 << 10
	err = errors.Join(framer.WriteSettings(), framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: headers[:min(most, len(headers))], EndHeaders: len(headers) <= most, EndStream: body == "" && len(trailers) == 0,
	}))
	for rest := headers[min(most, len(headers)):]; len(rest) > 0; rest = rest[min(most, len(rest)):] {
		err = errors.Join(err, framer.WriteContinuation(1, len(rest) <= most, rest[:min(most, len(rest))]))
	}
	if body != "" || len(trailers) > 0 {
		err = errors.Join(err, framer.WriteData(1, len(trailers) == 0, []byte(body)))
	}
	if len(trailers) > 0 {
		err = errors.Join(err, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(trailers), EndHeaders: true, EndStream: true}))
	}
	if err != nil {
		return answer{Err: err}
	}
	return readH2(conn, framer)
}

func readH2(conn net.Conn, framer *http2.Framer) answer {
	a := answer{Header: http.Header{}}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			a.Err = err
			return a
		}
		over := false
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			for _, field := range f.Fields {
				if field.Name == ":status" {
					a.Status, _ = strconv.Atoi(field.Value)
				} else {
					a.Header.Add(field.Name, field.Value)
				}
			}
			over = f.StreamEnded()
		case *http2.DataFrame:
			a.Body += string(f.Data())
			over = f.StreamEnded()
		case *http2.RSTStreamFrame:
			a.Err, over = errors.New("the stream was reset: "+f.ErrCode.String()), true
		case *http2.GoAwayFrame:
			a.Err, over = errors.New("the connection was ended: "+f.ErrCode.String()), f.ErrCode != http2.ErrCodeNo
			_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // what was begun may still be answered
		}
		if over {
			return a
		}
	}
}
