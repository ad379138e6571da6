// Package audit answers WHERE A DECISION'S EVENT GOES: into this member's spool, hash-chained by tenant and signed, until
// the control plane has it. A decision waits for none of this: [Recorder.Record] puts an event where there is room, or
// counts what it had no room for, and that count is an event of its own once there is room again.
//
// # Concurrency
//
// A [Recorder] may be used from many goroutines. One goroutine, [Recorder.Run], writes.
//
// It imports ledger, policy and sidecar/durable.
package audit
