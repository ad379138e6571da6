// Package wire reads the messages that Envoy sends with every request field by field, and writes the answers to them,
// where the generated code would decode and allocate all that a message holds and little of it is looked at.
//
// A message is taken as one string, from which its fields are cut without a copy. What no field is asked of is stepped
// over and not checked, but its length is. That text is UTF-8 is for the reader to check.
//
// # Concurrency
//
// The codec may be used from many goroutines, a [Reader] from one.
//
// It imports grpc and protobuf's wire format.
package wire

import (
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec of all other messages
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Decoder is a message that reads itself. The string stays as it is for as long as any part of it is kept.
type Decoder interface{ DecodeWire(message string) error }

// Encoder is a message that writes itself: it appends to buffer. It is asked once, and may be used again afterwards.
type Encoder interface{ EncodeWire(buffer []byte) []byte }

// ServerOption makes a gRPC server use [Decoder] and [Encoder] where a message is one, and the generated code elsewhere.
func ServerOption() grpc.ServerOption {
	return grpc.ForceServerCodecV2(codec{encoding.GetCodecV2("proto")})
}

// codec is a grpc encoding.CodecV2.
type codec struct{ encoding.CodecV2 }

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	message, ok := v.(Decoder)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	if len(data) == 1 {
		return message.DecodeWire(string(data[0].ReadOnlyData()))
	}
	return message.DecodeWire(string(data.Materialize()))
}

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	message, ok := v.(Encoder)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	buffer := buffers.Get(0)
	*buffer = message.EncodeWire((*buffer)[:0])
	if mem.IsBelowBufferPoolingThreshold(len(*buffer)) {
		data := mem.SliceBuffer(append([]byte(nil), *buffer...))
		buffers.Put(buffer)
		return mem.BufferSlice{data}, nil
	}
	return mem.BufferSlice{mem.NewBuffer(buffer, buffers)}, nil
}

// pool is a mem.BufferPool of buffers of any length.
type pool struct{ sync.Pool }

var buffers = &pool{sync.Pool{New: func() any { return new([]byte) }}}

func (p *pool) Get(int) *[]byte  { return p.Pool.Get().(*[]byte) }
func (p *pool) Put(data *[]byte) { p.Pool.Put(data) }

// Reader steps through the fields of a message, in the order in which they were written (Protocol Buffers,
// "Encoding"). Of a field that is there twice the last counts, or, of a message, both together: who sets what it finds gets
// that by itself. Envoy writes no field twice.
type Reader struct {
	rest string

	Number int    // of the field at hand
	Bytes  string // its value, when it has a length: text, bytes, a message; else ""
	Value  uint64 // its value otherwise, as it is on the wire
	Err    error  // why there is no next field; nil at the end
}

// Read begins to read a message.
func Read(message string) Reader { return Reader{rest: message} }

// Wire types.
const (
	varint  = 0
	fixed64 = 1
	length  = 2
	fixed32 = 5
)

// Next steps to the next field. False: there is none.
func (r *Reader) Next() bool {
	if r.rest == "" || r.Err != nil {
		return false
	}
	tag, ok := r.varint()
	r.Number, r.Bytes, r.Value = int(tag>>3), "", 0
	if !ok || tag>>3 == 0 || tag>>3 > 1<<29-1 {
		return r.fail("a field's number")
	}
	switch tag & 7 {
	case varint:
		if r.Value, ok = r.varint(); !ok {
			return r.fail("a number")
		}
	case fixed64:
		r.Value, ok = r.fixed(8)
	case fixed32:
		r.Value, ok = r.fixed(4)
	case length:
		size, whole := r.varint()
		if ok = whole && size <= uint64(len(r.rest)); ok {
			r.Bytes, r.rest = r.rest[:size], r.rest[size:]
		}
	default: // a group, which went out of use before these messages were made, is stepped over; others are none
		size := protowire.ConsumeFieldValue(protowire.Number(r.Number), protowire.Type(tag&7), []byte(r.rest))
		if ok = size >= 0; ok {
			r.rest = r.rest[size:]
		}
	}
	return ok || r.fail("a value")
}

func (r *Reader) fail(what string) bool {
	r.Err = fmt.Errorf("%s must be as the encoding of Protocol Buffers says (%d bytes before the message's end)", what, len(r.rest))
	return false
}

func (r *Reader) varint() (value uint64, ok bool) {
	for i := 0; i < len(r.rest) && i < 10; i++ {
		b := r.rest[i]
		if i == 9 && b > 1 {
			return 0, false
		}
		value |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			r.rest = r.rest[i+1:]
			return value, true
		}
	}
	return 0, false
}

func (r *Reader) fixed(size int) (value uint64, ok bool) {
	if len(r.rest) < size {
		return 0, false
	}
	for i := range size {
		value |= uint64(r.rest[i]) << (8 * i)
	}
	r.rest = r.rest[size:]
	return value, true
}

// Entry reads an entry of a map whose keys and values are text, bytes or messages.
func Entry(entry string) (key, value string, err error) {
	r := Read(entry)
	for r.Next() {
		switch r.Number {
		case 1:
			key = r.Bytes
		case 2:
			value = r.Bytes
		}
	}
	return key, value, r.Err
}

// Field is the last value of a field that has a length, "" when it is not there.
func Field(message string, number int) (value string, err error) {
	r := Read(message)
	for r.Next() {
		if r.Number == number {
			value = r.Bytes
		}
	}
	return value, r.Err
}

// Each calls read with each field, until one cannot be read; value is "" for a field that has no length.
func Each(message string, read func(number int, value string) error) error {
	r := Read(message)
	for r.Next() {
		if err := read(r.Number, r.Bytes); err != nil {
			return err
		}
	}
	return r.Err
}
