package wire

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// TestReader reads one field of each wire type, and nothing that is cut off.
func TestReader(t *testing.T) {
	b := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), 1<<63)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 2, protowire.Fixed64Type), 1<<60+1)
	b = protowire.AppendFixed32(protowire.AppendTag(b, 3, protowire.Fixed32Type), 1<<31)
	b = protowire.AppendString(protowire.AppendTag(b, 4, protowire.BytesType), strings.Repeat("x", 300))
	b = protowire.AppendGroup(protowire.AppendTag(b, 5, protowire.StartGroupType), 5, []byte{8, 1})
	b = protowire.AppendString(protowire.AppendTag(b, 1<<29-1, protowire.BytesType), "")
	want := []Reader{
		{Number: 1, Value: 1 << 63}, {Number: 2, Value: 1<<60 + 1}, {Number: 3, Value: 1 << 31},
		{Number: 4, Bytes: strings.Repeat("x", 300)}, {Number: 5}, {Number: 1<<29 - 1},
	}
	r := Read(string(b))
	for i, w := range want {
		if !r.Next() || r.Number != w.Number || r.Value != w.Value || r.Bytes != w.Bytes {
			t.Fatalf("field %d is %d %d %q (%v), want %+v", i, r.Number, r.Value, r.Bytes, r.Err, w)
		}
	}
	if r.Next() || r.Err != nil {
		t.Errorf("after the last there is field %d (%v)", r.Number, r.Err)
	}
	ends := map[int]bool{0: true}
	for rest := b; len(rest) > 0; {
		_, _, n := protowire.ConsumeField(rest)
		rest = rest[n:]
		ends[len(b)-len(rest)] = true
	}
	for cut := range len(b) {
		r := Read(string(b[:cut]))
		for r.Next() {
		}
		if (r.Err == nil) != ends[cut] {
			t.Errorf("cut at %d of %d: %v", cut, len(b), r.Err)
		}
	}
	for _, bad := range []string{"\x00", "\x0f", "\x0c", strings.Repeat("\xff", 11), "\x08" + strings.Repeat("\xff", 9) + "\x02", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"} {
		r := Read(bad)
		if r.Next() || r.Err == nil {
			t.Errorf("%q is read as field %d", bad, r.Number)
		}
	}
}

// FuzzReader: what protowire reads is read alike.
func FuzzReader(f *testing.F) {
	f.Add([]byte("\x08\x01\x12\x01x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := Read(string(text))
		for len(text) > 0 {
			number, kind, n := protowire.ConsumeField(text)
			if n < 0 || number > protowire.MaxValidNumber { // protowire takes too large a number, the generated code does not
				if r.Next() && r.Err == nil {
					t.Fatalf("%x is read as field %d, and is none", text, r.Number)
				}
				return
			}
			if !r.Next() || r.Number != int(number) {
				t.Fatalf("%x is read as field %d (%v), want %d", text, r.Number, r.Err, number)
			}
			if value, m := protowire.ConsumeBytes(text[protowire.SizeTag(number):n]); kind == protowire.BytesType && m > 0 && protowire.SizeTag(number)+m == n && string(value) != r.Bytes {
				t.Fatalf("%x holds %q, want %q", text, r.Bytes, value)
			}
			text = text[n:]
		}
	})
}
