package synth

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/checkpoint/safetensors"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/recovery"
)

// Options says what to write. The zero value is a Llama of 1 GiB in BF16.
type Options struct {
	Arch   string     // "llama", the default
	Bytes  int64      // of all tensors; met within 2 %. 0 is DefaultBytes. Config overrules it
	DType  dtype.Type // BF16 (the default), F16 or F32
	Shards int        // files; 0 is one per 4 GiB. One is model.safetensors, without an index
	Seed   uint64
	Config []byte // a Llama's config.json, whose dimensions are used; nil picks them by Bytes
	// Progress, if set, is told the bytes written so far, by one goroutine at a
	// time and never less than before.
	Progress func(done, total int64)
}

// Defaults and limits.
const (
	DefaultBytes = 1 << 30
	shardBytes   = 4 << 30
	maxShards    = 1000
	// blockBytes is about how much is written at once: enough for the page
	// cache to hold most of the file in huge pages, which a load then maps.
	blockBytes = 8 << 20
)

// Result says what was written.
type Result struct {
	Dims       Dims     `json:"dimensions"`
	Parameters int64    `json:"parameters"`
	Bytes      int64    `json:"bytes"` // of all tensors
	Files      []string `json:"files"` // names in the folder, in the order they got them
}

// Write writes a checkpoint into dir, which it creates. Files get their names
// when all are complete, config.json and the index last, so that a folder that
// can be opened is whole. It refuses a folder that holds another checkpoint's
// files. The digests of what was written are beside it at the end. Errors: usage; unsupported for other architectures; cancelled; and
// what writing meets.
func Write(ctx context.Context, dir string, o Options) (Result, error) {
	d, config, err := o.resolve()
	if err != nil {
		return Result{}, err
	}
	files, err := cut(d.weights(o.DType), o.Shards)
	if err != nil {
		return Result{}, err
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return Result{}, &recovery.Error{Class: recovery.NotAllowed, Op: "create", File: dir, Err: err}
	}
	if err := free(dir, files); err != nil {
		return Result{}, err
	}
	s := &set{dir: dir, files: files}
	if err := s.create(); err != nil {
		return Result{}, err
	}
	if err := s.fill(ctx, o); err != nil {
		s.abort()
		return Result{}, err
	}
	names, err := s.commit(config)
	if err != nil {
		return Result{}, err
	}
	if err := digests.WriteBeside(ctx, dir); err != nil {
		return Result{}, err
	}
	return Result{Dims: d, Parameters: d.parameters(), Bytes: s.total(), Files: names}, nil
}

// resolve fills in defaults and returns dimensions and config.json.
func (o *Options) resolve() (Dims, []byte, error) {
	if o.Arch != "" && o.Arch != "llama" {
		return Dims{}, nil, recovery.Errorf(recovery.Unsupported, "synth writes the architecture llama, not %q", o.Arch)
	}
	if o.DType == dtype.Invalid {
		o.DType = dtype.BF16
	}
	if torchNames[o.DType] == "" {
		return Dims{}, nil, recovery.Errorf(recovery.Usage, "synth writes BF16, F16 or F32, not %s", o.DType)
	}
	if o.Bytes < 0 || o.Shards < 0 || o.Shards > maxShards {
		return Dims{}, nil, recovery.Errorf(recovery.Usage, "synth: %d bytes in %d shards: want a positive size and at most %d shards", o.Bytes, o.Shards, maxShards)
	}
	if o.Config != nil {
		return readConfig(o.Config, o.DType)
	}
	if o.Bytes == 0 {
		o.Bytes = DefaultBytes
	}
	d, err := pick(o.Bytes, o.DType)
	if err != nil {
		return Dims{}, nil, err
	}
	config, err := newConfig(d, o.DType)
	return d, config, err
}

// free refuses a folder with tensor files that Write would not replace, since
// beside the new ones they would be read in their place, and with such that
// have no digests beside them: Write leaves digests, a downloaded model has
// none.
func free(dir string, files []file) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return &recovery.Error{Class: recovery.NotAllowed, Op: "list", File: dir, Err: err}
	}
	ours := map[string]bool{indexName: len(files) > 1}
	for _, f := range files {
		ours[f.name] = true
	}
	written := slices.ContainsFunc(entries, func(e os.DirEntry) bool { return e.Name() == digests.Name })
	for _, e := range entries {
		name := e.Name()
		if (!ours[name] || !written) && (strings.HasSuffix(name, ".safetensors") || strings.HasSuffix(name, ".safetensors.index.json")) {
			return &recovery.Error{Class: recovery.Usage, Op: "write", File: dir,
				Err: fmt.Errorf("it holds %s of another checkpoint", name), Hint: "name an empty folder"}
		}
	}
	return nil
}

// fill writes every tensor with as many goroutines as there are processors.
func (s *set) fill(ctx context.Context, o Options) error {
	blocks := s.blocks(o.Seed)
	var next atomic.Int64
	report := reporter{total: s.total(), to: o.Progress}
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			var buf []byte
			for {
				i := next.Add(1) - 1
				if i >= int64(len(blocks)) {
					return nil
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				b := blocks[i]
				if int64(cap(buf)) < b.bytes {
					buf = make([]byte, b.bytes)
				}
				buf = buf[:b.bytes]
				b.filler.fill(buf, b.row)
				if err := b.to.WriteTensor(b.tensor, buf, b.offset); err != nil {
					return err
				}
				report.add(b.bytes)
			}
		})
	}
	return g.Wait()
}

// block is a run of whole rows that is made and written at once.
type block struct {
	to            *safetensors.Writer
	tensor        int
	filler        *filler
	row           int64
	offset, bytes int64 // in the tensor
}

func (s *set) blocks(seed uint64) []block {
	var list []block
	ts := tables{}
	for i, f := range s.files {
		for j, w := range f.weights {
			fl := newFiller(w, seed, ts)
			width := int64(fl.cols * fl.size)
			step := max(1, blockBytes/width)
			for row := int64(0); row < w.rows(); row += step {
				n := min(step, w.rows()-row)
				list = append(list, block{s.writers[i], j, fl, row, row * width, n * width})
			}
		}
	}
	return list
}

// reporter adds up what goroutines have written.
type reporter struct {
	mu          sync.Mutex
	done, total int64
	to          func(done, total int64)
}

func (r *reporter) add(n int64) {
	if r.to == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += n
	r.to(r.done, r.total)
}

// replace writes a small file under a temporary name and renames it.
func replace(path string, data []byte) error {
	tmp := fmt.Sprintf("%s.%d.tmp", path, os.Getpid())
	err := os.WriteFile(tmp, data, 0o666)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return &recovery.Error{Class: recovery.Unavailable, Op: "write", File: filepath.Clean(path),
			Err: errors.Join(err, ignoreMissing(os.Remove(tmp)))}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}
