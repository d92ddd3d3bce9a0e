package onnx

import (
	"context"
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/source"
)

// coded is a tensor whose values are varints: int32_data, int64_data or
// uint64_data. Exporters write shapes and other short lists of integers so.
type coded struct {
	tensor int32 // index into Header.Tensors
	width  int64 // bytes of a decoded value
	offset int64 // in the model's file
	bytes  int64
}

// codedCost is what a coded takes in a list that grows, in bytes.
const codedCost = 128

// addCoded gives a tensor its place among the decoded values and counts them.
func (p *parser) addCoded(t *rawTensor, width int64) error {
	want := t.Bytes / width
	switch {
	case t.Bytes > MaxValueBytes-p.h.values:
		return unsupportedTensor(t.Name, "it and other tensors in %s come to more than %d bytes: store them as raw data", dataNames[t.data], MaxValueBytes)
	case t.bytes < want || (t.bytes-1)/10 >= want: // a varint has 1 to 10 bytes
		return header.BadTensor(t.Name, "its %s has %d bytes, which are not %d numbers", dataNames[t.data], t.bytes, want)
	}
	p.h.coded = append(p.h.coded, coded{int32(p.tensors.Len()), width, t.offset, t.bytes})
	t.File, t.Offset = InValues, p.h.values
	p.h.values += t.Bytes
	return p.budget.Spend(codedCost)
}

// ValueBytes returns the size of what Values returns.
func (h *Header) ValueBytes() int64 { return h.values }

// Values reads and decodes the tensors that lie in InValues: one after the
// other, as raw data would have them. r is the file that h was read from.
// Errors: invalid_checkpoint where the numbers are not as many, or larger,
// than type and shape say; and the source's.
func (h *Header) Values(ctx context.Context, r source.Reader) ([]byte, error) {
	out := make([]byte, h.values)
	var buf []byte
	for _, c := range h.coded {
		t := &h.Tensors[c.tensor]
		if int64(cap(buf)) < c.bytes {
			buf = make([]byte, c.bytes)
		}
		buf = buf[:c.bytes]
		if err := r.ReadAt(ctx, buf, c.offset); err != nil {
			return nil, err
		}
		if err := decode(out[t.Offset:t.Offset+t.Bytes], buf, int(c.width), t.Name); err != nil {
			return nil, header.InFile(err, r.File().Name)
		}
	}
	return out, nil
}

// decode decodes varints into numbers of so many bytes each, little-endian.
func decode(dst, src []byte, width int, name string) error {
	bits := 8 * width
	for len(dst) > 0 {
		v, n := protowire.ConsumeVarint(src)
		if n < 0 {
			return header.BadTensor(name, "its values end %d bytes too early", len(dst))
		}
		// As a signed or an unsigned number of that many bits.
		if high := int64(v) >> (bits - 1); high != 0 && high != -1 && v>>(bits-1) != 1 {
			return header.BadTensor(name, "its value %d does not fit %d bits", int64(v), bits)
		}
		var b [8]byte
		binary.LittleEndian.PutUint64(b[:], v)
		copy(dst[:width], b[:])
		dst, src = dst[width:], src[n:]
	}
	if len(src) > 0 {
		return header.BadTensor(name, "it has more values than its shape")
	}
	return nil
}
