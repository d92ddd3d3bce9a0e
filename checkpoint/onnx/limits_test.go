package onnx

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/onnx/onnxtest"
	"github.com/gantry-ml/gantry/internal/alloctest"
	"github.com/gantry-ml/gantry/recovery"
)

// realModel is a model of so many layers, named and stored as exporters do it:
// external data, a node for each product.
func realModel(layers int) message {
	var nodes, tensors []message
	var at int64
	for l := range layers {
		for _, m := range []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"} {
			name := fmt.Sprintf("model.layers.%d.%s.weight", l, m)
			out := fmt.Sprintf("/model/layers.%d/%s/MatMul_output_0", l, m)
			nodes = append(nodes, onnxtest.Node("MatMul", out, "/model/norm/Mul_output_0", name).Text(3, strings.TrimSuffix(out, "_output_0")))
			tensors = append(tensors, onnxtest.Tensor(name, 10, 4096, 4096).External("model.onnx_data", at, 1<<25))
			at += 1 << 25
		}
	}
	return onnxtest.Model(onnxtest.Graph(tensors, nodes...))
}

// sparseFile is a file of which some runs are stored, and the rest is zeros.
type sparseFile struct {
	runs map[int64][]byte
	read int64
}

func (f *sparseFile) ReadAt(p []byte, off int64) (int, error) {
	f.read += int64(len(p))
	clear(p)
	for at, run := range f.runs {
		if from, to := max(at, off), min(at+int64(len(run)), off+int64(len(p))); from < to {
			copy(p[from-off:to-off], run[from-at:to-at])
		}
	}
	return len(p), nil
}

var _ io.ReaderAt = (*sparseFile)(nil)

// TestLargeFile reads a model of 12 GiB, whose tensors lie in its own file,
// and passes over their bytes.
func TestLargeFile(t *testing.T) {
	const size, count = 3 << 30, 4
	f := &sparseFile{runs: map[int64][]byte{}}
	var total int64
	put := func(b []byte) { f.runs[total] = b; total += int64(len(b)) }
	var heads []message
	graph := int64(0)
	for i := range count {
		inner := onnxtest.Tensor(fmt.Sprint("t", i), 1, size/4)
		rawHead := appendTag(inner, 9, size)
		head := appendTag(nil, 5, int64(len(rawHead))+size)
		heads = append(heads, append(head, rawHead...))
		graph += int64(len(heads[i])) + size
	}
	put(appendTag(message{}.Int(1, 10), 7, graph))
	for _, h := range heads {
		put(h)
		total += size
	}
	h, err := Parse(f, total)
	if err != nil {
		t.Fatal(err)
	}
	for i, x := range h.Tensors {
		if x.Bytes != size || x.Offset < int64(i)*size || i == count-1 && x.Offset+x.Bytes != total {
			t.Errorf("%+v", x)
		}
	}
	if len(h.Tensors) != count || f.read > (count+1)*minRun {
		t.Errorf("%d tensors, %d bytes read", len(h.Tensors), f.read)
	}
}

// appendTag appends the tag and the length of a field of n bytes.
func appendTag(m message, number field, n int64) message {
	b := message{}.Bytes(number, nil)
	m = append(m, b[:len(b)-1]...)
	for ; n > 0x7f; n >>= 7 {
		m = append(m, byte(n)|0x80)
	}
	return append(m, byte(n))
}

func BenchmarkParse(b *testing.B) {
	m := realModel(2000)
	b.SetBytes(int64(len(m)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parse(m); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzParse looks for panics, for tensors that are not where they are said to
// be, and for more memory than a model is worth.
func FuzzParse(f *testing.F) {
	f.Add([]byte(realModel(1)))
	f.Add([]byte(onnxtest.Model(onnxtest.Graph(
		[]message{onnxtest.Tensor("a", 1, 2, 3).Raw(make([]byte, 24)), onnxtest.Tensor("b", 7, 2).Varints(7, 1, -1), onnxtest.Tensor("c", 22, 3).Raw([]byte{1, 2}), onnxtest.Tensor("d", 1, 2).Floats(1, 2)},
		onnxtest.Constant("e", onnxtest.Tensor("", 16, 1).Raw([]byte{1, 2})),
		onnxtest.Node("If", "f", "g").Bytes(5, onnxtest.Attribute("then_branch", 6, onnxtest.Graph([]message{onnxtest.Tensor("a", 9, 1).Raw([]byte{1})}))),
	)).Bytes(25, message{}.Bytes(7, onnxtest.Constant("h", onnxtest.Tensor("", 11, 0)))).Entry(14, "k", "v")))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h *Header
		var err error
		if n, over := alloctest.Over(4*uint64(len(data))+1<<20, func() { h, err = Parse(bytes.NewReader(data), int64(len(data))) }); over {
			t.Errorf("%d bytes allocated for a model of %d", n, len(data))
		}
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%q is not one line", err)
			}
			return
		}
		seen := map[string]bool{}
		for _, x := range h.Tensors {
			limit := int64(1) << 62
			switch {
			case x.File == InModel:
				limit = int64(len(data))
			case x.File == InValues:
				limit = h.ValueBytes()
			case x.File < 0 || int(x.File) >= len(h.External):
				t.Fatalf("%+v: no such file", x)
			}
			if seen[x.Name] || x.Offset < 0 || x.Bytes < 0 || x.Bytes > limit-x.Offset {
				t.Fatalf("%+v: its name is taken, or its bytes are not there", x)
			}
			seen[x.Name] = true
		}
	})
}

// TestLimits refuses what is over our own limits, as unsupported.
func TestLimits(t *testing.T) {
	m := model()
	for range MaxMetadata {
		m = m.Entry(14, "k", "v")
	}
	if _, err := parse(m); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("metadata: %v", err)
	}
	full := parser{h: &Header{}}
	full.budget.Read(1 << 30)
	for range MaxTensors {
		if err := full.tensors.Add(&full.budget, Tensor{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := full.keep(&rawTensor{Tensor: Tensor{Name: "one more"}, kind: 1}, 0); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("tensors: %v", err)
	}
}

// repeated is a file that is one run over and over again.
type repeated string

func (r repeated) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = r[(off+int64(i))%int64(len(r))]
	}
	return len(p), nil
}

// TestEndless ends although a model of a tebibyte is all small fields.
func TestEndless(t *testing.T) {
	field := message{}.Int(99, 0)
	if _, err := Parse(repeated(field), 1<<40/int64(len(field))*int64(len(field))); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("got %v, want class unsupported", err)
	}
}
