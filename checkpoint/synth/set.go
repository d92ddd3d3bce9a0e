package synth

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/recovery"
)

// File names of a Hugging Face folder.
const (
	singleName = "model.safetensors"
	indexName  = "model.safetensors.index.json"
	configName = "config.json"
)

// file is one tensor file to write.
type file struct {
	name    string
	weights []weight
}

// cut divides the weights over n files of about the same size, in order. n 0
// is as many as their size asks for.
func cut(weights []weight, n int) ([]file, error) {
	total := int64(0)
	for _, w := range weights {
		total += w.size()
	}
	if n == 0 {
		n = int(min((total+shardBytes-1)/shardBytes, maxShards))
	}
	if n > len(weights) {
		return nil, recovery.Errorf(recovery.Usage, "%d tensors do not fill %d shards", len(weights), n)
	}
	if n == 1 {
		return []file{{singleName, weights}}, nil
	}
	files := make([]file, n)
	done := int64(0)
	for i := range files {
		files[i].name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, n)
		// At least one tensor, and enough left for the files to come. Then as
		// long as the middle of the next one is before the end of this file.
		end := total / int64(n) * int64(i+1)
		for k := 0; len(weights) > n-i-1; k++ {
			size := weights[0].size()
			if k > 0 && i < n-1 && done+size/2 > end {
				break
			}
			files[i].weights = append(files[i].weights, weights[0])
			weights, done = weights[1:], done+size
		}
	}
	return files, nil
}

func (w weight) size() int64 { return w.rows() * w.cols() * int64(w.DType.Size()) }

// set is the files of one checkpoint while they are written.
type set struct {
	dir     string
	files   []file
	writers []*safetensors.Writer
}

func (s *set) total() (n int64) {
	for _, f := range s.files {
		for _, w := range f.weights {
			n += w.size()
		}
	}
	return n
}

// create creates all files under temporary names.
func (s *set) create() error {
	for _, f := range s.files {
		tensors := make([]safetensors.Tensor, len(f.weights))
		for i, w := range f.weights {
			tensors[i] = w.Tensor
		}
		// What other writers of the format say, and some readers ask for.
		w, err := safetensors.Create(filepath.Join(s.dir, f.name), tensors, map[string]string{"format": "pt"})
		if err != nil {
			s.abort()
			return err
		}
		s.writers = append(s.writers, w)
	}
	return nil
}

// abort removes what is still temporary. That it fails changes nothing for
// the caller, who gets the error that led here.
func (s *set) abort() {
	for _, w := range s.writers {
		_ = w.Abort()
	}
	s.writers = nil
}

// commit gives the files their names. An index of an earlier checkpoint goes
// first, and its digests: its shards must not be mixed with ours if we are
// interrupted.
func (s *set) commit(config []byte) (names []string, err error) {
	for _, old := range []string{indexName, digests.Name} {
		if err := ignoreMissing(os.Remove(filepath.Join(s.dir, old))); err != nil {
			s.abort()
			return nil, &recovery.Error{Class: recovery.NotAllowed, Op: "replace", File: s.dir, Err: err}
		}
	}
	for len(s.writers) > 0 {
		w := s.writers[0]
		s.writers = s.writers[1:]
		if err := w.Commit(); err != nil {
			s.abort()
			return nil, err
		}
	}
	for _, f := range s.files {
		names = append(names, f.name)
	}
	if err := replace(filepath.Join(s.dir, configName), config); err != nil {
		return nil, err
	}
	names = append(names, configName)
	if len(s.files) == 1 {
		return names, nil
	}
	index, err := s.index()
	if err == nil {
		err = replace(filepath.Join(s.dir, indexName), index)
	}
	return append(names, indexName), err
}

// index writes which file holds each tensor.
func (s *set) index() ([]byte, error) {
	where := map[string]string{}
	for _, f := range s.files {
		for _, w := range f.weights {
			where[w.Name] = f.name
		}
	}
	text, err := json.MarshalIndent(map[string]any{
		"metadata":   map[string]any{"total_size": s.total()},
		"weight_map": where,
	}, "", "  ")
	return append(text, '\n'), err
}
