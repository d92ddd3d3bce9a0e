package onnx

import (
	"bytes"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gantry-ml/gantry/recovery"
)

// field is the number of a field.
type field = protowire.Number

// value is one field of a message. Fields that hold bytes, texts, packed
// numbers or messages lie from the window's offset to stop.
type value struct {
	field field
	form  protowire.Type
	num   uint64 // of a varint
	stop  int64
}

// bytes reports whether the field has the form of bytes.
func (v value) bytes() bool { return v.form == protowire.BytesType }

// number reports whether it has the form of a varint.
func (v value) number() bool { return v.form == protowire.VarintType }

// message reads a message that ends at stop and hands each field to f, which
// need not read what it does not want. A field of another form than its type
// has is to be left alone, as the protobuf specification says.
func (p *parser) message(stop int64, f func(v value) error) error {
	for p.off < stop {
		at := p.off
		p.budget.Read(at - p.passed)
		if p.fields++; p.fields > MaxFields {
			return recovery.Errorf(recovery.Unsupported, "more than %d protobuf fields in one model", MaxFields)
		}
		tag, err := p.varint(stop)
		if err != nil {
			return err
		}
		v := value{stop: stop}
		if v.field, v.form = protowire.DecodeTag(tag); v.field < protowire.MinValidNumber {
			return p.failAt(at, "%d is no number of a protobuf field", tag>>3)
		}
		switch v.form {
		case protowire.VarintType:
			v.num, err = p.varint(stop)
			v.stop = p.off
		case protowire.Fixed32Type:
			v.stop, err = p.length(4, stop)
		case protowire.Fixed64Type:
			v.stop, err = p.length(8, stop)
		case protowire.BytesType:
			var n uint64
			if n, err = p.varint(stop); err == nil {
				v.stop, err = p.length(n, stop)
			}
		default:
			return p.failAt(at, "a protobuf field of form %d, which ONNX does not use", v.form)
		}
		if err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
		p.to(v.stop)
	}
	return nil
}

// length returns where n bytes from here end, which must be within stop.
func (p *parser) length(n uint64, stop int64) (int64, error) {
	if left := stop - p.off; n > uint64(left) {
		return 0, p.failAt(p.off, "%d bytes are claimed here, but only %d follow: truncated, or no ONNX model", n, left)
	}
	return p.off + int64(n), nil
}

// text reads a text up to stop.
func (p *parser) text(stop int64) (string, error) {
	b, err := p.chars(stop)
	if err != nil {
		return "", err
	}
	return string(b), p.budget.Text(len(b))
}

// word reads a text that many fields have, such as the name of an operator,
// and keeps one copy of it.
func (p *parser) word(stop int64) (string, error) {
	const most = 1024 // kept
	b, err := p.chars(stop)
	if err != nil {
		return "", err
	}
	s, ok := p.words[string(b)]
	if ok {
		return s, nil
	}
	s = string(b)
	if len(p.words) < most {
		p.words[s] = s
	}
	return s, p.budget.Text(len(b))
}

// chars reads the bytes of a text up to stop, valid until the next call.
func (p *parser) chars(stop int64) ([]byte, error) {
	at, n := p.off, stop-p.off
	if n > MaxTextBytes {
		e := recovery.Errorf(recovery.Unsupported, "a name of %d bytes, at most %d are supported", n, MaxTextBytes)
		e.Offset, e.Length = at, n
		return nil, e
	}
	b, err := p.peek(n, stop)
	if err != nil {
		return nil, err
	}
	if b = b[:n]; !utf8.Valid(b) || bytes.IndexByte(b, 0) >= 0 {
		return nil, p.failAt(at, "%.80q is not UTF-8 text", b)
	}
	p.to(stop)
	return b, nil
}
