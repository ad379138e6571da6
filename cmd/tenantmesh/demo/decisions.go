package demo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// lines is a writer of whole lines for several at once.
type lines struct {
	mu sync.Mutex
	to io.Writer
}

// Write implements io.Writer.
func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(text)
}

// decision is a line of a sidecar's log that tells of one.
type decision struct {
	Time      float64 `json:"ts"` // seconds since 1970
	Message   string  `json:"msg"`
	Decision  string  `json:"decision"`
	Point     string  `json:"point"`
	Allowed   bool    `json:"allowed"`
	Tenant    string  `json:"tenant"`
	Authority string  `json:"authority"`
	Method    string  `json:"method"`
	Path      string  `json:"path"`
	Reason    string  `json:"reason"`
	Rule      string  `json:"rule"`
	Detail    string  `json:"detail"`
}

// follow prints a line for each decision that is made from now on. stop prints what is there still, and returns then.
func (d *demo) follow(m *devMesh) (stop func()) {
	over := make(chan struct{})
	var wg sync.WaitGroup
	for _, p := range d.processes.running() {
		if p.Role != "gateway" && p.Role != "sidecar" {
			continue
		}
		at, _, _ := strings.Cut(strings.TrimPrefix(p.Name, m.cell+"/"), "-sidecar")
		wg.Go(func() {
			if err := d.followLog(over, d.processes.logFile(p.Name), at); err != nil {
				d.progress("decisions of %s are not shown: %v", at, err)
			}
		})
	}
	return func() {
		close(over)
		wg.Wait()
	}
}

func (d *demo) followLog(over <-chan struct{}, path, at string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	var line []byte
	last := false // nothing more is written
	for reader := bufio.NewReader(file); ; {
		part, err := reader.ReadBytes('\n')
		switch line = append(line, part...); {
		case err == nil:
			var one decision
			if bytes.Contains(line, []byte(`"decision"`)) && json.Unmarshal(line, &one) == nil && one.Message == "decision" {
				fmt.Fprintln(d.Out, one.line(at))
			}
			line = line[:0]
		case err != io.EOF:
			return err
		case last:
			return nil
		default: // the rest is still to come
			select {
			case <-over:
				last = true
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
}

// line is what a person reads: when, where, for whom, what, and how it was decided.
func (one decision) line(at string) string {
	where, target := at, one.Path
	if one.Point == "outbound" {
		where, target = at+" calls", one.Authority+one.Path
	}
	verdict := "allowed"
	if one.Rule != "" {
		verdict += " by " + one.Rule
	}
	if !one.Allowed {
		verdict = "REFUSED " + one.Reason
		if one.Detail != "" {
			verdict += ": " + one.Detail
		}
		verdict += " (explain " + one.Decision + ")"
	}
	tenant := one.Tenant
	if tenant == "" {
		tenant = "-"
	}
	return fmt.Sprintf("%s  %-16s %-10s %-6s %-28s %s", time.UnixMilli(int64(one.Time*1000)).Format("15:04:05.000"), where, tenant, one.Method, target, verdict)
}
