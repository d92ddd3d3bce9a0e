package onnx

import (
	"cmp"
	"context"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/gantry-ml/gantry/checkpoint/header"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// Placeholder is the file of external data that stripped weights are said to
// lie in. It must exist, and may be empty: their offset is beyond any file's
// end, so that whoever reads a weight from there, instead of taking the memory
// that a session was given for it, fails.
const (
	Placeholder       = "weights"
	placeholderOffset = 1 << 50
)

// Strip returns the model, a ModelProto, without the bytes of its weights but
// those that are Embedded, which data gives: as long as the tensor's Bytes,
// and kept by nobody. r is the file that g was read from.
// Errors: source_changed where it is another, the source's, and data's.
func (g *Graph) Strip(ctx context.Context, r source.Reader, data func(*Weight) ([]byte, error)) ([]byte, error) {
	if size := r.File().Size; size != g.size {
		e := recovery.Errorf(recovery.SourceChanged, "it had %d bytes, and has %d", g.size, size)
		return nil, header.InFile(e, r.File().Name)
	}
	s := &stripper{parser: parser{window: window{r: source.ReaderAt(ctx, r), size: g.size}}, data: data}
	for i := range g.Weights {
		s.weights = append(s.weights, &g.Weights[i])
	}
	slices.SortFunc(s.weights, func(a, b *Weight) int { return cmp.Compare(a.at.message.off, b.at.message.off) })
	model, err := s.copy(g.size)
	return model, header.InFile(err, r.File().Name)
}

// stripper copies a model.
type stripper struct {
	parser
	weights []*Weight // that are still to come, by offset
	data    func(*Weight) ([]byte, error)
}

// copy returns the message up to stop.
func (s *stripper) copy(stop int64) (out []byte, err error) {
	err = s.message(stop, func(v value) error {
		out = protowire.AppendTag(out, v.field, v.form)
		if v.number() {
			out = protowire.AppendVarint(out, v.num)
			return nil
		}
		body, err := s.body(v.stop)
		if v.bytes() {
			out = protowire.AppendVarint(out, uint64(len(body)))
		}
		out = append(out, body...)
		return err
	})
	return out, err
}

// body returns what lies up to stop, from the offset on: a tensor in its new
// form, a message that holds tensors, or anything else as it is.
func (s *stripper) body(stop int64) ([]byte, error) {
	if len(s.weights) == 0 || s.weights[0].at.message.off >= stop {
		return s.raw(stop)
	}
	w := s.weights[0]
	if w.at.message != (span{s.off, stop}) {
		return s.copy(stop)
	}
	s.weights = s.weights[1:]
	if !w.Embedded {
		return w.stripped(), nil
	}
	b, err := s.data(w)
	if err != nil {
		return nil, err
	}
	return protowire.AppendBytes(protowire.AppendTag(w.described(), rawData, protowire.BytesType), b), nil
}

// raw returns the bytes up to stop.
func (s *stripper) raw(stop int64) ([]byte, error) {
	out := make([]byte, 0, stop-s.off)
	for s.off < stop {
		b, err := s.peek(min(stop-s.off, maxRun), stop)
		if err != nil {
			return nil, err
		}
		out = append(out, b...)
		s.to(s.off + int64(len(b)))
	}
	return out, nil
}

// described returns a TensorProto without data.
func (w *Weight) described() (m []byte) {
	for _, d := range w.Shape {
		m = appendInt(m, tensorDims, uint64(d))
	}
	m = appendInt(m, tensorType, w.at.kind)
	return appendText(m, tensorName, w.at.name)
}

// stripped returns a TensorProto whose data lies in Placeholder.
func (w *Weight) stripped() []byte {
	const external = 1
	m := w.described()
	for _, kv := range []KV{
		{"location", Placeholder},
		{"offset", strconv.Itoa(placeholderOffset)},
		{"length", strconv.FormatInt(w.Bytes, 10)},
	} {
		entry := appendText(appendText(nil, 1, kv.Key), 2, kv.Value)
		m = protowire.AppendBytes(protowire.AppendTag(m, tensorExternal, protowire.BytesType), entry)
	}
	return appendInt(m, tensorDataLocation, external)
}

func appendInt(m []byte, f field, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(m, f, protowire.VarintType), v)
}

func appendText(m []byte, f field, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(m, f, protowire.BytesType), s)
}
