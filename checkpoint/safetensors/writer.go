package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/gantry-ml/gantry/checkpoint/outfile"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// headerAlign is what the end of a written header is aligned to, so that the
// first tensor is aligned for every element type.
const headerAlign = 8

// Layout decides where tensors lie in a file, one after the other in the
// order given. It sets Offset and Bytes of each in a copy and returns it with
// the first bytes of the file, prefix and header, and the file's size. Only
// Name, DType and Shape of the argument count. Errors: usage.
func Layout(tensors []Tensor, metadata map[string]string) (placed []Tensor, head []byte, size int64, err error) {
	placed = make([]Tensor, len(tensors))
	seen := make(map[string]bool, len(tensors))
	for i, t := range tensors {
		if t.Name == metadataKey || !utf8.ValidString(t.Name) || seen[t.Name] {
			return nil, nil, 0, recovery.Errorf(recovery.Usage, "safetensors: tensor %q: its name is reserved, taken or not UTF-8", t.Name)
		}
		seen[t.Name] = true
		n, err := dtype.Elements(t.Shape)
		if err == nil {
			t.Bytes, err = t.DType.Bytes(n)
		}
		if err != nil || !t.DType.Safetensors() || t.Bytes > 1<<62-size {
			return nil, nil, 0, recovery.Errorf(recovery.Usage, "safetensors: tensor %q: %s of shape %v cannot be stored", t.Name, t.DType, t.Shape)
		}
		t.Offset = size
		size += t.Bytes
		placed[i] = t
	}
	head, err = encode(placed, metadata)
	if err != nil {
		return nil, nil, 0, err
	}
	for i := range placed {
		placed[i].Offset += int64(len(head))
	}
	return placed, head, size + int64(len(head)), nil
}

// encode writes the prefix and the header of tensors whose offsets count from
// the header's end.
func encode(tensors []Tensor, metadata map[string]string) ([]byte, error) {
	head := append(make([]byte, prefixBytes), '{')
	field := func(key string, value any) error {
		if len(head) > prefixBytes+1 {
			head = append(head, ',')
		}
		for i, v := range []any{key, value} {
			text, err := json.Marshal(v)
			if err != nil {
				return fmt.Errorf("safetensors: write header: %w", err)
			}
			if i == 1 {
				head = append(head, ':')
			}
			head = append(head, text...)
		}
		return nil
	}
	if len(metadata) > 0 {
		if err := field(metadataKey, metadata); err != nil {
			return nil, err
		}
	}
	for _, t := range tensors {
		shape := t.Shape
		if shape == nil {
			shape = []int64{} // a scalar's is [], not null
		}
		err := field(t.Name, struct {
			DType   dtype.Type `json:"dtype"`
			Shape   []int64    `json:"shape"`
			Offsets [2]int64   `json:"data_offsets"`
		}{t.DType, shape, [2]int64{t.Offset, t.Offset + t.Bytes}})
		if err != nil {
			return nil, err
		}
	}
	head = append(head, '}')
	for len(head)%headerAlign != 0 {
		head = append(head, ' ')
	}
	if len(head)-prefixBytes > MaxHeaderBytes {
		return nil, recovery.Errorf(recovery.Usage, "safetensors: a header of %d bytes is over the format's limit of %d", len(head)-prefixBytes, MaxHeaderBytes)
	}
	binary.LittleEndian.PutUint64(head, uint64(len(head)-prefixBytes))
	return head, nil
}

// Writer writes one file, which appears under its name whole or not at all.
type Writer = outfile.Tensors

// Create lays out a file and writes its header. The file has its whole size at
// once; bytes that are never written are zero.
func Create(path string, tensors []Tensor, metadata map[string]string) (*Writer, error) {
	placed, head, size, err := Layout(tensors, metadata)
	if err != nil {
		return nil, err
	}
	return outfile.CreateTensors(path, placed, head, size)
}
