package policy

// Breaker says when the calls of one tenant to a Workload or Dependency are refused early, because they keep failing. A
// zero field takes the default named there.
type Breaker struct {
	Failures int     `json:"failures,omitempty"` // in a window, to open; 1 to 10,000, default 5; -1: it never opens
	Share    float64 `json:"share,omitempty"`    // of the calls in the window that failed, to open; 0.001 to 1, default 0.5
	Window   string  `json:"window,omitempty"`   // a Go duration, 1s to 1h, default 10s
	Wait     string  `json:"wait,omitempty"`     // until a call is let through to see, doubled each time that it fails; 100ms to 1h, default 5s
	MaxWait  string  `json:"maxWait,omitempty"`  // at least wait, to 1h, default 60s
}
