package onnx

import (
	"strconv"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/source"
)

// location is the external_data of a tensor. Other entries than these, such
// as checksum, do not say where bytes lie.
type location struct {
	file           string
	offset, length string // in decimal
}

// location reads one entry.
func (p *parser) location(l *location, v value) error {
	kv, err := p.entry(v)
	switch kv.Key {
	case "location":
		l.file = kv.Value
	case "offset":
		l.offset = kv.Value
	case "length":
		l.length = kv.Value
	}
	return err
}

// findExternal finds the bytes of a tensor in an external file. Whether that
// has them is for the caller to check.
func (p *parser) findExternal(t *rawTensor) error {
	file, ok := source.NameInside(t.where.file)
	if !ok {
		return header.BadTensor(t.Name, "its external data is at %.80q, which is no file inside the model's folder", t.where.file)
	}
	offset, ok := bytesOf(t.where.offset, 0)
	if !ok || offset > 1<<62 {
		return header.BadTensor(t.Name, "its external data has the offset %.40q, which is no number of bytes", t.where.offset)
	}
	length, ok := bytesOf(t.where.length, t.Bytes)
	if !ok || length != t.Bytes {
		return header.BadTensor(t.Name, "its external data has the length %.40q, its type and shape need %d bytes", t.where.length, t.Bytes)
	}
	t.Offset = offset
	at, ok := p.external[file]
	if !ok {
		if at = int32(len(p.h.External)); at == MaxExternal {
			return unsupportedTensor(t.Name, "its external data is in one file more than the %d that are allowed", MaxExternal)
		}
		p.h.External = append(p.h.External, file)
		p.external[file] = at
	}
	t.File = at
	return nil
}

// bytesOf reads a number of bytes, written in decimal.
func bytesOf(s string, missing int64) (int64, bool) {
	if s == "" {
		return missing, true
	}
	n, err := strconv.ParseUint(s, 10, 63)
	return int64(n), err == nil
}
