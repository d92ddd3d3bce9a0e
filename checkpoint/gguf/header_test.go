package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/checkpoint/gguf/gguftest"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/internal/alloctest"
	"github.com/gantry-ml/gantry/recovery"
)

func parse(b []byte) (*Header, error) { return Parse(bytes.NewReader(b), int64(len(b))) }

// array returns an array's element type and length, without elements.
func array(elem uint32, n uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, elem), n)
}

// TestMore adds to the verdicts what they do not cover. Those without a note
// are libggml's too, of the same version.
func TestMore(t *testing.T) {
	type file = gguftest.File
	kv, raw, tensor := gguftest.KV, gguftest.Raw, gguftest.Tensor
	one := func(b []byte) [][]byte { return [][]byte{b} }
	align := func(n uint32) [][]byte { return one(kv(AlignmentKey, n)) }
	f32 := one(tensor("t", 0, 0, 4))
	two := func(second uint64) [][]byte { return [][]byte{tensor("t", 0, 0, 4), tensor("u", 0, second, 4)} }
	d := func(n int) []byte { return make([]byte, n) }
	for name, c := range map[string]struct {
		file file
		want recovery.Class
		says string
	}{
		"empty":                        {file: file{}},
		"version 1":                    {file{Version: 1}, recovery.Unsupported, "version 1"},
		"version 65539":                {file{Version: 0x10003}, recovery.Unsupported, "version 65539"},
		"big-endian":                   {file{Version: 3 << 24}, recovery.Unsupported, "big-endian"},
		"array of arrays":              {file{Keys: one(raw("a", 9, append(array(9, 1), array(4, 0)...)))}, recovery.InvalidCheckpoint, "array of arrays"},
		"array of no arrays":           {file{Keys: one(raw("a", 9, array(9, 0)))}, recovery.InvalidCheckpoint, "array of arrays"},
		"type 13":                      {file{Keys: one(raw("a", 13, d(8)))}, recovery.InvalidCheckpoint, "13"},
		"bool of 2":                    {file: file{Keys: one(raw("a", 7, []byte{2}))}},
		"array beyond the end":         {file{Keys: one(raw("a", 9, array(4, 26))), Data: d(100)}, recovery.InvalidCheckpoint, "26 × u32"},
		"array up to the end":          {file: file{Keys: one(raw("a", 9, array(4, 25))), Data: d(100)}},
		"array of 2^63":                {file{Keys: one(raw("a", 9, array(0, 1<<63))), Data: d(100)}, recovery.InvalidCheckpoint, "claimed"},
		"strings beyond the end":       {file{Keys: one(raw("a", 9, array(8, 17))), Data: d(8 * 16)}, recovery.InvalidCheckpoint, "17 × string"},
		"long strings beyond the end":  {file{Keys: one(raw("a", 9, append(array(8, 17), 0xff))), Data: d(8 * 17)}, recovery.InvalidCheckpoint, "claimed"},
		"no padding behind the last":   {file{Tensors: f32, Data: d(16)}, recovery.InvalidCheckpoint, "truncated"},
		"more behind the last":         {file: file{Tensors: f32, Data: d(1000)}},
		"no elements and no padding":   {file{Tensors: one(tensor("t", 0, 0, 0)), Align: 1}, recovery.InvalidCheckpoint, "padded"},
		"alignment 1":                  {file: file{Keys: align(1), Tensors: two(16), Align: 1, Data: d(32)}},
		"alignment 64":                 {file: file{Keys: align(64), Tensors: two(64), Align: 64, Data: d(128)}},
		"alignment not kept":           {file{Keys: align(64), Tensors: two(32), Align: 64, Data: d(128)}, recovery.InvalidCheckpoint, `tensor "u"`},
		"alignment without tensors":    {file: file{Keys: align(1 << 31)}},
		"alignment 0 without tensors":  {file{Keys: align(0)}, recovery.InvalidCheckpoint, "power of two"},
		"alignment in an array":        {file{Keys: one(kv(AlignmentKey, []int32{32}))}, recovery.InvalidCheckpoint, "array"},
		"name of 63 bytes":             {file: file{Tensors: one(tensor(strings.Repeat("t", 63), 0, 0, 4)), Data: d(32)}},
		"name of 64 bytes":             {file{Tensors: one(tensor(strings.Repeat("t", 64), 0, 0, 4)), Data: d(32)}, recovery.InvalidCheckpoint, "64 bytes"},
		"name with a NUL":              {file{Tensors: one(tensor("t\x00a", 0, 0, 4)), Data: d(32)}, recovery.InvalidCheckpoint, "UTF-8"}, // libggml cuts it
		"name twice":                   {file{Tensors: [][]byte{tensor("t", 0, 0, 4), tensor("t", 0, 32, 4)}, Data: d(64)}, recovery.InvalidCheckpoint, "twice"},
		"key not UTF-8":                {file: file{Keys: one(kv("\xff", uint8(1)))}},
		"text not UTF-8":               {file: file{Keys: one(kv("a", "\xff"))}},
		"a type that was":              {file{Tensors: one(tensor("t", 4, 0, 32)), Data: d(64)}, recovery.InvalidCheckpoint, "no type"},
		"a type that was, no elements": {file{Tensors: one(tensor("t", 31, 0, 0)), Data: d(64)}, recovery.InvalidCheckpoint, "no type"},
		"type 41":                      {file: file{Tensors: one(tensor("t", 41, 0, 128)), Data: d(32)}},
		"type 42":                      {file: file{Tensors: one(tensor("t", 42, 0, 64)), Data: d(32)}},
		"type 43":                      {file{Tensors: one(tensor("t", 43, 0, 64)), Data: d(32)}, recovery.InvalidCheckpoint, "43"},
		"a block type's scalar":        {file{Tensors: one(tensor("t", 8, 0)), Data: d(64)}, recovery.InvalidCheckpoint, "whole blocks"},
		"no rows":                      {file: file{Tensors: one(tensor("t", 8, 0, 32, 0)), Data: d(64)}},
		"no elements after many":       {file{Tensors: one(tensor("t", 0, 0, 0, 1<<40, 1<<40)), Data: d(64)}, recovery.InvalidCheckpoint, "overflows"}, // libggml accepts
		"no elements at the end":       {file: file{Tensors: [][]byte{tensor("t", 0, 0, 4), tensor("z", 0, 32, 0)}, Data: d(32)}},
		"no elements before":           {file: file{Tensors: [][]byte{tensor("z", 0, 0, 0), tensor("t", 0, 0, 4)}, Data: d(32)}},
		"key over our limit":           {file{Keys: one(kv(strings.Repeat("k", maxKeptString+1), uint8(1)))}, recovery.Unsupported, "key"},
	} {
		t.Run(name, func(t *testing.T) {
			h, err := parse(c.file.Bytes())
			if recovery.ClassOf(err) != c.want {
				t.Fatalf("got %v, %v, want class %q", h, err, c.want)
			}
			if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "\n") || len(err.Error()) > 500) {
				t.Errorf("%q is not one line that says %q", err, c.says)
			}
		})
	}
}

// TestCutShort refuses every beginning of a good file.
func TestCutShort(t *testing.T) {
	f := sample()
	f.Keys = f.Keys[:len(f.Keys)-1] // the long one
	whole := f.Bytes()
	if _, err := parse(whole); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if _, err := parse(whole[:n]); recovery.ClassOf(err) != recovery.InvalidCheckpoint {
			t.Fatalf("the first %d of %d bytes: %v", n, len(whole), err)
		}
	}
}

func sample() gguftest.File {
	return gguftest.File{
		Keys: [][]byte{
			gguftest.KV("general.architecture", "llama"), gguftest.KV("u8", uint8(255)), gguftest.KV("i8", int8(-1)),
			gguftest.KV("u16", uint16(65535)), gguftest.KV("i16", int16(-2)), gguftest.KV("u32", uint32(1<<32-1)), gguftest.KV("i32", int32(-3)),
			gguftest.KV("f32", float32(1e-5)), gguftest.KV("bool", true), gguftest.KV("u64", uint64(1<<64-1)), gguftest.KV("i64", int64(-4)),
			gguftest.KV("f64", 0.1), gguftest.KV("ints", []int32{1, -2}), gguftest.KV("texts", []string{"a\n", "\xff"}),
			gguftest.KV("bools", []bool{true, false}), gguftest.KV("none", []string{}), gguftest.KV("many", make([]float32, 17)),
			gguftest.KV("words", make([]string, 17)), gguftest.KV("bad", "\xffx"), gguftest.KV("long", strings.Repeat("x", maxKeptString+1)),
		},
		Tensors: [][]byte{gguftest.Tensor("a", 8, 0, 64, 3), gguftest.Tensor("b", 30, 224, 5)},
		Data:    make([]byte, 256),
	}
}

// TestHeader reads every type of value, and tensors.
func TestHeader(t *testing.T) {
	h, err := parse(sample().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"general.architecture": "llama", "u8": "255", "i8": "-1", "u16": "65535", "i16": "-2", "u32": "4294967295", "i32": "-3",
		"f32": "1e-05", "bool": "true", "u64": "18446744073709551615", "i64": "-4", "f64": "0.1", "ints": "[1, -2]",
		"texts": `["a\n", "` + "\ufffd" + `"]`, "bools": "[true, false]", "none": "[]", "many": "[17 × f32]", "words": "[17 × string]",
		"bad": "\ufffdx", "long": "(1048577 bytes of text)",
	} {
		if v, ok := h.Find(key); !ok || v.String() != want {
			t.Errorf("%s is %q, want %q", key, v, want)
		}
	}
	if _, ok := h.Find("x"); ok {
		t.Error("found a key that is not there")
	}
	for key, want := range map[string]int64{"u8": 255, "u32": 1<<32 - 1} {
		if v, _ := h.Find(key); v.Type == String {
			t.Error(key)
		} else if n, ok := v.Int(); !ok || n != want {
			t.Errorf("%s is %d", key, n)
		}
	}
	for _, key := range []string{"i8", "i64", "u64", "f32", "bool", "ints", "bad"} {
		if v, _ := h.Find(key); v.Type != Float32 {
			if n, ok := v.Int(); ok {
				t.Errorf("%s is the count %d", key, n)
			}
		}
	}
	if v, _ := h.Find("f32"); v.Type != Float32 {
		t.Error("f32 is of another type")
	} else if f, ok := v.Float(); !ok || f != 1e-5 {
		t.Errorf("f32 is %v", f)
	}
	if v, _ := h.Find("words"); v.Len() != 17 {
		t.Errorf("%d words", v.Len())
	}
	if a, b := h.Tensors[0], h.Tensors[1]; a.DType != dtype.Q8_0 || len(a.Shape) != 2 || a.Shape[0] != 3 || a.Shape[1] != 64 ||
		a.Bytes != 204 || a.Offset != h.Start || b.DType != dtype.BF16 || b.Offset != h.Start+224 || b.Bytes != 10 {
		t.Errorf("tensors %+v", h.Tensors)
	}
}

// vocabulary is a file like those of large models: 150,000 tokens.
func vocabulary() []byte {
	tokens := make([]string, 150_000)
	for i := range tokens {
		tokens[i] = strings.Repeat("x", i%13+1)
	}
	var f gguftest.File
	f.Keys = [][]byte{gguftest.KV("tokenizer.ggml.tokens", tokens), gguftest.KV("tokenizer.ggml.scores", make([]float32, len(tokens)))}
	return f.Bytes()
}

// TestClaims allocates next to nothing for a file that claims a lot, however
// large the file is.
func TestClaims(t *testing.T) {
	for name, b := range map[string][]byte{
		"tensors": append(gguftest.File{}.Bytes()[:8], bytes.Repeat([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0}, 2)...),
		"text":    gguftest.File{Keys: [][]byte{gguftest.Raw("a", 8, binary.LittleEndian.AppendUint64(nil, 1<<29))}}.Bytes(),
		"array":   gguftest.File{Keys: [][]byte{gguftest.Raw("a", 9, array(12, 1<<35))}}.Bytes(),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse(zeros{bytes.NewReader(b)}, 1<<40)
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 1<<20 {
			t.Errorf("%s: %d bytes allocated (%v)", name, n, err)
		}
	}
}

// TestEndless ends although a file of a tebibyte claims as many empty strings
// as it has room for.
func TestEndless(t *testing.T) {
	b := gguftest.File{Keys: [][]byte{gguftest.Raw("a", 9, array(8, 1<<36))}}.Bytes()
	if _, err := Parse(zeros{bytes.NewReader(b)}, 1<<40); recovery.ClassOf(err) != recovery.Unsupported {
		t.Errorf("got %v, want class unsupported", err)
	}
}

// zeros is a reader with no end: zeros follow.
type zeros struct{ io.ReaderAt }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if _, err := z.ReaderAt.ReadAt(p, off); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	return len(p), nil
}

// TestReadErrors passes on what the file says.
func TestReadErrors(t *testing.T) {
	want := errors.New("disk on fire")
	if _, err := Parse(broken{want}, 1000); !errors.Is(err, want) {
		t.Error(err)
	}
}

type broken struct{ err error }

func (b broken) ReadAt([]byte, int64) (int, error) { return 0, b.err }

// FuzzParse: no input makes it panic, and what it accepts lies in the file.
func FuzzParse(f *testing.F) {
	small := sample()
	small.Keys = small.Keys[:len(small.Keys)-1]
	f.Add(small.Bytes())
	f.Add(gguftest.File{}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		var h *Header
		var err error
		if n, over := alloctest.Over(4*uint64(len(b))+1<<20, func() { h, err = parse(b) }); over {
			t.Errorf("%d bytes allocated for a file of %d", n, len(b))
		}
		if err != nil {
			if c := recovery.ClassOf(err); c != recovery.InvalidCheckpoint && c != recovery.Unsupported || strings.ContainsAny(err.Error(), "\r\n") {
				t.Errorf("class %q: %v", c, err)
			}
			return
		}
		at := h.Start
		for _, x := range h.Tensors {
			if x.Offset < at || x.Bytes < 0 || x.Offset%h.Alignment != h.Start%h.Alignment || x.Bytes > int64(len(b))-x.Offset {
				t.Errorf("tensor %+v in a file of %d bytes", x, len(b))
			}
			at = x.Offset + x.Bytes
		}
		for _, kv := range h.Metadata {
			if strings.ToValidUTF8(kv.Value.String(), "") != kv.Value.String() {
				t.Errorf("%q is not UTF-8", kv.Value)
			}
		}
	})
}

// BenchmarkVocabulary compares parsing with a plain scan of the same bytes.
func BenchmarkVocabulary(b *testing.B) {
	file := vocabulary()
	b.Run("parse", func(b *testing.B) {
		b.SetBytes(int64(len(file)))
		for b.Loop() {
			if _, err := parse(file); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("scan", func(b *testing.B) {
		b.SetBytes(int64(len(file)))
		for b.Loop() {
			sum := byte(0)
			for _, x := range file {
				sum += x
			}
			if sum == 0 {
				b.Fatal("the sum of the bytes is 0")
			}
		}
	})
}
