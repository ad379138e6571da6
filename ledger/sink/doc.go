// Package sink answers WHO ELSE IS TOLD: it follows what is kept of audit events, and hands it to a receiver of OpenTelemetry
// logs (OTLP over HTTP). What is kept is the truth, and is kept whether or not a receiver takes it.
//
// A cursor on the disk says what the receiver has taken. What it has not is sent again, so that it may come twice, and in the
// order in which it was kept, each tenant's in its own. What went away meanwhile, because files were too many, is counted, and
// the receiver is told where it would have been.
//
// # Concurrency
//
// One goroutine, [Sink.Run], does everything. Whoever keeps events never waits for it.
//
// It imports ledger only.
package sink
