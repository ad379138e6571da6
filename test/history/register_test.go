// Package history asks WHETHER WHAT CLIENTS SAW CAN HAVE BEEN: it records what clients of the real mesh asked and were
// told, while tenants move, processes die and links break, and looks for an order in which one store would have
// answered so (docs/guarantees.md).
package history

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// operation is what a client saw of one request: a write of a value that nobody else writes, or a read of the value
// and of how often it was written.
type operation struct {
	client    int
	row       string // tenant/key
	write     bool
	value     string // "" read: there is none
	writes    int    // read
	call, ret time.Duration
	fate      fate
}

type fate int

const (
	done    fate = iota // 200, or that there is no such document
	refused             // by name, before the service saw it
	unclear             // it may have happened, may yet happen, or never
)

// input is an operation as the register's model takes it. A write whose answer is unclear and whose value nobody read is
// seen in nothing but the count of writes: such ones are not operations of their own, which would cost a search of
// 2^n orders, but a number of writes that may have come in between.
type input struct {
	write  bool
	value  string
	writes int // after this write, as readers saw it; 0: nobody read its value
	hidden int // unclear writes that nobody saw, and that were sent before this one returned
}

// register is the state of a row.
type register struct {
	value  string
	writes int
	hidden int // of the unclear writes that nobody saw, how many must have been applied
}

// model is one row of documents, as one store that applies each write once would keep it.
var model = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, in, out any) (bool, any) {
		now, op := state.(register), in.(input)
		if !op.write {
			return now == register{out.(register).value, out.(register).writes, now.hidden}, now
		}
		next := register{op.value, now.writes + 1, now.hidden}
		if op.writes > 0 {
			next.hidden += op.writes - next.writes
			next.writes = op.writes
		}
		return next.hidden >= now.hidden && next.hidden <= max(op.hidden, now.hidden), next
	},
	DescribeOperation: func(in, out any) string {
		if op := in.(input); op.write {
			return "write " + op.value
		}
		return fmt.Sprintf("read %s, written %d times", out.(register).value, out.(register).writes)
	},
	DescribeState: func(state any) string {
		now := state.(register)
		return fmt.Sprintf("%s, written %d times", now.value, now.writes)
	},
}

// prepare makes the model's operations from one row's history: without what was refused and reads that got no answer.
// An unclear write ends when its value is read first, at the latest.
func prepare(history []operation) (prepared []porcupine.Operation) {
	type sight struct {
		writes int
		ret    time.Duration
	}
	seen := map[string]sight{}
	for _, op := range history {
		if op.write || op.fate != done {
			continue
		}
		first, ok := seen[op.value]
		if !ok || op.ret < first.ret {
			first.ret = op.ret
		}
		if !ok || op.writes < first.writes {
			first.writes = op.writes
		}
		seen[op.value] = first
	}
	var hidden []time.Duration
	for _, op := range history {
		if _, ok := seen[op.value]; op.write && op.fate == unclear && !ok {
			hidden = append(hidden, op.call)
		}
	}
	slices.Sort(hidden)
	for _, op := range history {
		first, ok := seen[op.value]
		if op.fate == refused || op.fate == unclear && (!op.write || !ok) {
			continue
		}
		if op.fate == unclear {
			op.ret = max(op.call, first.ret)
		}
		in := input{write: op.write}
		if op.write {
			before, _ := slices.BinarySearch(hidden, op.ret+1)
			in = input{true, op.value, first.writes, before}
		}
		prepared = append(prepared, porcupine.Operation{
			ClientId: op.client, Input: in, Output: register{value: op.value, writes: op.writes}, Call: int64(op.call), Return: int64(op.ret),
		})
	}
	return prepared
}

// explained looks for an order that explains one row's history.
func explained(history []operation, patience time.Duration) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	return porcupine.CheckOperationsVerbose(model, prepare(history), patience)
}

// TestCheckCatches gives the checker histories of a few operations: those that cannot have been must be caught.
func TestCheckCatches(t *testing.T) {
	const a, b, c = "a", "b", "c"
	write := func(call, ret time.Duration, value string, fate fate) operation {
		return operation{write: true, value: value, call: call, ret: ret, fate: fate}
	}
	read := func(call, ret time.Duration, value string, writes int) operation {
		return operation{value: value, writes: writes, call: call, ret: ret}
	}
	for name, test := range map[string]struct {
		want    porcupine.CheckResult
		history []operation
	}{
		"nothing written":                      {porcupine.Ok, []operation{read(1, 2, "", 0)}},
		"in order":                             {porcupine.Ok, []operation{write(1, 2, a, done), read(3, 4, a, 1), write(5, 6, b, done), read(7, 8, b, 2)}},
		"at once, either order":                {porcupine.Ok, []operation{write(1, 5, a, done), write(1, 5, b, done), read(2, 6, b, 1), read(7, 8, a, 2)}},
		"overwritten before anybody read":      {porcupine.Ok, []operation{write(1, 2, a, done), write(3, 4, b, done), read(5, 6, b, 2)}},
		"an unclear write that happened":       {porcupine.Ok, []operation{write(1, 2, a, unclear), read(5, 6, "", 0), read(7, 8, a, 1)}},
		"an unclear write that did not":        {porcupine.Ok, []operation{write(1, 2, a, unclear), write(3, 4, b, done), read(5, 6, b, 1)}},
		"an unclear write that nobody read":    {porcupine.Ok, []operation{write(1, 2, a, unclear), write(3, 4, b, done), read(5, 6, b, 2)}},
		"a lost write, seen by the count":      {porcupine.Illegal, []operation{write(1, 2, a, done), write(3, 4, b, done), read(5, 6, b, 1)}},
		"a lost write, seen by the value":      {porcupine.Illegal, []operation{write(1, 2, a, done), read(3, 4, "", 0)}},
		"a lost write that had been read":      {porcupine.Illegal, []operation{write(1, 2, a, done), write(3, 4, b, done), read(5, 6, b, 2), read(7, 8, a, 1)}},
		"a doubled write":                      {porcupine.Illegal, []operation{write(1, 2, a, done), read(3, 4, a, 2)}},
		"a write doubled after it was read":    {porcupine.Illegal, []operation{write(1, 2, a, done), read(3, 4, a, 1), read(5, 6, a, 2)}},
		"an unclear write, doubled":            {porcupine.Illegal, []operation{write(1, 2, a, unclear), read(3, 4, a, 2)}},
		"more writes than unclear ones":        {porcupine.Illegal, []operation{write(1, 2, a, unclear), write(3, 4, b, done), read(5, 6, b, 3)}},
		"one unclear write counted twice":      {porcupine.Illegal, []operation{write(1, 2, a, unclear), write(3, 4, b, done), read(5, 6, b, 2), write(7, 8, c, done), read(9, 10, c, 4)}},
		"an unclear write, before it was sent": {porcupine.Illegal, []operation{write(3, 4, b, done), read(5, 6, b, 2), write(7, 8, a, unclear)}},
		"a stale read":                         {porcupine.Illegal, []operation{write(1, 2, a, done), write(3, 4, b, done), read(5, 6, a, 1)}},
		"a read that goes back":                {porcupine.Illegal, []operation{write(1, 2, a, done), write(3, 9, b, done), read(4, 5, b, 2), read(6, 7, a, 1)}},
		"a read of what will be written":       {porcupine.Illegal, []operation{read(1, 2, a, 1), write(3, 4, a, done)}},
		"a refused write that happened":        {porcupine.Illegal, []operation{write(1, 2, a, refused), read(3, 4, a, 1)}},
	} {
		if got, _ := explained(test.history, time.Minute); got != test.want {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
	}
}
