package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/internal/alloctest"
	"github.com/gantry-ml/gantry/recovery"
)

// TestJSON adds to the verdicts what they do not cover: each text is a header
// without tensor bytes behind it.
func TestJSON(t *testing.T) {
	empty := func(fields string) string {
		return `{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]` + fields + `}}`
	}
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for _, c := range []struct {
		text string
		ok   bool
	}{
		{`{"__metadata__":null}`, true},
		{`{"__metadata__":null,"__metadata__":null}`, false},
		{`{"__metadata__":{"a":null}}`, false},
		{`{"__metadata__":{"\u00e9\n\"\\\/\b\f\r\t":"\uD83D\uDE00"}}`, true},
		{`{"__metadata__":{"a":"\ud83d\u0041"}}`, false},
		{`{"__metadata__":{"a":"\u12"}}`, false},
		{`{"__metadata__":{"a":"\x"}}`, false},
		{"{\"__metadata__\":{\"a\":\"\n\"}}", false},
		{"{\"__metadata__\":{\"a\":\"\x7f\"}}", true},
		{`{"__metadata__":{"a":"b",}}`, false},
		{`{"__metadata__":{"a" "b"}}`, false},
		{`{"__metadata__":{"a":"b"`, false},
		{`{"__metadata__":{"a":"b`, false},
		{`{"__metadata__":{"a":"\`, false},
		{`{,}`, false},
		{`{}x`, false},
		{`null`, false},
		{``, false},
		{empty(``), true},
		{empty(`,"x":[1,-1.5e+3,true,false,null,{"y":{}},"\u0041",0,-0]`), true},
		{empty(`,"x":1e999`), false},
		{empty(`,"x":01`), false},
		{empty(`,"x":1.`), false},
		{empty(`,"x":.5`), false},
		{empty(`,"x":1e`), false},
		{empty(`,"x":-`), false},
		{empty(`,"x":tru`), false},
		{empty(`,"x":"\ud800"`), false},
		{empty(`,"x":` + deep(100)), true},
		{empty(`,"x":` + deep(200)), false},
		// 127 in all, the header's two among them, whatever is innermost.
		{empty(`,"x":` + deep(125)), true},
		{empty(`,"x":` + strings.Repeat(`[`, 125) + `1` + strings.Repeat(`]`, 125)), true},
		{empty(`,"x":` + strings.Repeat(`{"y":`, 125) + `"z"` + strings.Repeat(`}`, 125)), true},
		{empty(`,"x":` + deep(126)), false},
		{empty(`,"x":` + strings.Repeat(`{"y":`, 126) + `null` + strings.Repeat(`}`, 126)), false},
		{empty(`,"x":` + strings.Repeat("[", 1_000_000)), false},
		{`{"a":{"dtype":"F32","shape":[1e0],"data_offsets":[0,0]}}`, false},
		{`{"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}}`, false},
		{`{"a":{"dtype":"F32","shape":null,"data_offsets":[0,0]}}`, false},
		{`{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0,0]}}`, false},
		{`{"a":{"dtype":"F32","shape":[0],"data_offsets":{}}}`, false},
		{`{"a":{"dtype":"Q8_0","shape":[0],"data_offsets":[0,0]}}`, false},
		{`{"a":{"dtype":"INVALID","shape":[0],"data_offsets":[0,0]}}`, false},
		{`{"a":{"dtype":"I4","shape":[0],"data_offsets":[0,0]}}`, false},
		{`{"a":{"dtype":{},"shape":[0],"data_offsets":[0,0]}}`, false},
		{`{"a":{"dtype":{"F32":1},"shape":[0],"data_offsets":[0,0]}}`, false},
		{`{"a":{"dtype":{"F32":null,"F16":null},"shape":[0],"data_offsets":[0,0]}}`, false},
		{`{"a":["F32",[0],[0,0]]}`, true},
		{`{"a":["F32",[0],[0,0],0]}`, false},
		{`{"a":["F32",[0]]}`, false},
		{`{"a":null}`, false},
		{`{"":["F32",[0],[0,0]]}`, true},
	} {
		h, err := Parse([]byte(c.text), int64(len(c.text))+prefixBytes)
		if (err == nil) != c.ok || err != nil && recovery.ClassOf(err) != recovery.InvalidCheckpoint {
			t.Errorf("%.60s: got %v, %v, want ok %v", c.text, h, err, c.ok)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%.60s: a message of %d bytes", c.text, len(err.Error()))
		}
	}
}

// TestLimits refuses what is over our own limits, as unsupported.
func TestLimits(t *testing.T) {
	dims := `{"a":["U8",[` + strings.Repeat("1,", MaxDimensions) + `1],[0,1]]}`
	if _, err := Parse([]byte(dims), int64(len(dims))+prefixBytes+1); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("%d dimensions: %v", MaxDimensions+1, err)
	}
	var keys strings.Builder
	for i := range MaxMetadata {
		fmt.Fprintf(&keys, `"%d":"",`, i)
	}
	metadata := `{"__metadata__":{` + keys.String() + `"one more":""}}`
	if _, err := Parse([]byte(metadata), int64(len(metadata))+prefixBytes); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("%d keys of metadata: %v", MaxMetadata+1, err)
	}
	full := parser{scanner: scanner{b: []byte(`["U8",[0],[0,0]]`)}, tensors: make([]Tensor, MaxTensors)}
	if err := full.tensor("one more"); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("%d tensors: %v", MaxTensors+1, err)
	}
	if _, err := Parse(make([]byte, MaxHeaderBytes+1), 1<<40); recovery.ClassOf(err) != recovery.InvalidCheckpoint {
		t.Errorf("a header over the format's limit: %v", err)
	}
}

// realHeader is a header of n tensors named like those of a large model.
func realHeader(n int) (header []byte, fileSize int64) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"model.layers.%d.mlp.experts.%d.gate_proj.weight":{"dtype":"U8","shape":[4,4],"data_offsets":[%d,%d]}`, i/256, i%256, 16*i, 16*i+16)
	}
	b.WriteByte('}')
	return b.Bytes(), int64(b.Len()) + prefixBytes + 16*int64(n)
}

func BenchmarkParse(b *testing.B) {
	header, size := realHeader(100_000)
	b.SetBytes(int64(len(header)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(header, size); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzParse looks for panics, and for headers that pass without tiling the
// file.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob(filepath.Join(testdata(f), "safetensors", "*.safetensors"))
	if err != nil || len(files) == 0 {
		f.Fatalf("no files to start from: %v", err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if n := binary.LittleEndian.Uint64(data); n <= uint64(len(data)-prefixBytes) {
			f.Add(data[prefixBytes:prefixBytes+n], int64(len(data)))
		}
	}
	f.Fuzz(func(t *testing.T, header []byte, size int64) {
		var h *Header
		var err error
		// Once more for the copy, since Parse decodes escapes in place.
		if n, over := alloctest.Over(5*uint64(len(header))+1<<20, func() { h, err = Parse(bytes.Clone(header), size) }); over {
			t.Errorf("%d bytes allocated for a header of %d", n, len(header))
		}
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("%q is not one line", err)
			}
			return
		}
		at := h.Start
		for _, x := range h.Tensors {
			if x.Offset != at || x.Bytes < 0 {
				t.Fatalf("tensor %q lies at %d, want %d", x.Name, x.Offset, at)
			}
			at += x.Bytes
		}
		if at != size {
			t.Fatalf("tensors end at %d of %d", at, size)
		}
	})
}

func FuzzParseShardIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":1},"weight_map":{"a":"x","b":"y"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m *ShardIndex
		var err error
		if n, over := alloctest.Over(5*uint64(len(data))+1<<20, func() { m, err = ParseShardIndex(bytes.Clone(data)) }); over {
			t.Errorf("%d bytes allocated for an index of %d", n, len(data))
		}
		if err != nil {
			return
		}
		for i, x := range m.Tensors {
			if x.Shard < 0 || int(x.Shard) >= len(m.Shards) || i > 0 && x.Name <= m.Tensors[i-1].Name {
				t.Errorf("tensor %d of %d, %q, is in shard %d of %d", i, len(m.Tensors), x.Name, x.Shard, len(m.Shards))
			}
		}
		if len(m.Tensors) == 0 || !slices.IsSorted(m.Shards) {
			t.Errorf("%d tensors in shards %q", len(m.Tensors), m.Shards)
		}
	})
}

func TestParseShardIndex(t *testing.T) {
	for _, c := range []struct {
		text string
		want recovery.Class
	}{
		{`{"metadata":{"total_size":1.5},"weight_map":{"a":"x","b":"y"},"more":[]}`, ""},
		{`{"weight_map":{}}`, recovery.InvalidCheckpoint},
		{`{}`, recovery.InvalidCheckpoint},
		{`[]`, recovery.InvalidCheckpoint},
		{``, recovery.InvalidCheckpoint},
		{`{"Weight_Map":{"a":"x"}}`, recovery.InvalidCheckpoint},
		{`{"weight_map":{"a":"x"},"weight_map":{"a":"x"}}`, recovery.InvalidCheckpoint},
		{`{"weight_map":{"a":"x","a":"y"}}`, recovery.InvalidCheckpoint},
		{`{"weight_map":{"a":1}}`, recovery.InvalidCheckpoint},
		{`{"weight_map":{"a":"x"}} x`, recovery.InvalidCheckpoint},
		{"{\"weight_map\":{\"a\":\"\xff\"}}", recovery.InvalidCheckpoint},
	} {
		if m, err := ParseShardIndex([]byte(c.text)); recovery.ClassOf(err) != c.want {
			t.Errorf("%s: got %v, %v, want %q", c.text, m, err, c.want)
		}
	}
}
