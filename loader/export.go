package loader

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/checkpoint"
	"github.com/gantry-ml/gantry/checkpoint/outfile"
	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/recovery"
	"github.com/gantry-ml/gantry/source"
)

// ExportSpec says where a model that is held is written to, and what of it
// other nodes hold.
type ExportSpec struct {
	Name  string // the model's
	Path  string // absolute: a file that ends in .gguf or .safetensors, else a folder
	Index *checkpoint.Index
	Dumps []Dump
}

// Dump is a rank's arena in a file, as DumpRank leaves it.
type Dump struct {
	Rank   int
	Path   string
	Digest [16]byte // xxh3-128 of the file; zero where the rank is a copy that no export needs
}

// dumpStep is how many bytes of an arena are written at once.
const dumpStep = 4 << 20

// DumpRank writes the arena of a sealed rank to a file, for the node that
// exports the model, and returns the xxh3-128 of its bytes. It makes the file's
// folder. Of a rank that is one more copy (dp > 0) it writes nothing and
// returns zero. Where it fails nothing is left. Errors: not_allowed
// outside of ExportRoots; stale where the rank is not here; those of writing.
func (n *Node) DumpRank(ctx context.Context, jobID string, rank int, path string) (digest [16]byte, err error) {
	j, a, leave, err := n.exported(jobID, rank, path)
	if err != nil {
		return digest, err
	}
	defer leave()
	if j.spec.Plan.Ranks[rank].DP > 0 {
		return digest, nil
	}
	undo, err := outfile.MakeFolder(filepath.Dir(path))
	if err != nil {
		return digest, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.RemoveDump(path), undo())
		}
	}()
	out, err := outfile.Create(path, a.Size())
	if err != nil {
		return digest, err
	}
	h, buf := xxh3.New(), make([]byte, min(dumpStep, a.Size()))
	for at := int64(0); at < a.Size() && err == nil; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), a.Size()-at)]
		if err = context.Cause(ctx); err != nil {
			break
		}
		if err = a.CopyOut(buf, at); err == nil {
			h.Write(buf)
			err = out.WriteAt(buf, at)
		}
	}
	if err != nil {
		return digest, errors.Join(err, out.Abort())
	}
	return h.Sum128().Bytes(), out.Commit()
}

// RemoveDump removes a dump, if it is there.
func (n *Node) RemoveDump(path string) error {
	if err := outfile.Within(n.opts.ExportRoots, path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return &recovery.Error{Class: recovery.Unavailable, Op: "remove", File: path, Err: err}
	}
	return nil
}

// exported enters a job to read a sealed rank's arena, until leave is called.
func (n *Node) exported(jobID string, rank int, path string) (j *nodeJob, a device.Arena, leave func(), err error) {
	if err := outfile.Within(n.opts.ExportRoots, path); err != nil {
		return nil, nil, nil, err
	}
	if j, err = n.job(jobID); err != nil {
		return nil, nil, nil, err
	}
	a, release, err := j.sealed(rank)
	if err != nil {
		j.leave()
		return nil, nil, nil, err
	}
	return j, a, func() { release(); j.leave() }, nil
}

// sealed returns the arena of a sealed rank, which stays until release is
// called.
func (j *nodeJob) sealed(rank int) (a device.Arena, release func(), err error) {
	j.mu.Lock()
	r := j.ranks[rank]
	j.mu.Unlock()
	if r == nil || !r.isSealed() {
		return nil, nil, recovery.Errorf(recovery.Stale, "job %q: rank %d is not held here, or not sealed yet", j.spec.ID, rank)
	}
	release, err = r.use()
	return r.arena, release, err
}

// CheckExport says why Export would refuse what is written where, whoever holds
// the ranks. It writes nothing, and looks at no dump.
func (n *Node) CheckExport(ctx context.Context, jobID string, e ExportSpec) error {
	if err := outfile.Within(n.opts.ExportRoots, e.Path); err != nil {
		return err
	}
	j, err := n.job(jobID)
	if err != nil {
		return err
	}
	defer j.leave()
	ctx, cancel := j.within(ctx)
	defer cancel(nil)
	return model.CheckExport(ctx, n.exportParts(j, e), e.Path)
}

// exportParts are the parts of a job's model without its arenas.
func (n *Node) exportParts(j *nodeJob, e ExportSpec) model.Parts {
	return model.Parts{Name: e.Name, Index: e.Index, Plan: j.spec.Plan,
		Open: func(ctx context.Context) (source.Source, error) { return n.opts.Open(ctx, j.spec.URI, j.spec.Strategy) }}
}

// Export writes a model of which this node holds some ranks, and finds the
// others in dumps: as GGUF where the path ends in .gguf, else as safetensors.
// It makes the folder, which does not stay where it fails.
// The warnings say what the file lacks. Errors: not_allowed outside of
// ExportRoots; stale where a rank is neither here nor dumped; digest_mismatch
// for a dump that changed on its way; those of model.Export and ExportGGUF.
func (n *Node) Export(ctx context.Context, jobID string, e ExportSpec) (warnings []string, err error) {
	if err := outfile.Within(n.opts.ExportRoots, e.Path); err != nil {
		return nil, err
	}
	j, err := n.job(jobID)
	if err != nil {
		return nil, err
	}
	defer j.leave()
	ctx, cancel := j.within(ctx)
	defer cancel(nil)
	plan := j.spec.Plan
	p := n.exportParts(j, e)
	p.Arenas = make([]device.Arena, len(plan.Ranks))
	for _, d := range e.Dumps {
		if d.Digest == [16]byte{} || d.Rank < 0 || d.Rank >= len(plan.Ranks) {
			continue
		}
		a, err := openDump(ctx, d, plan.Ranks[d.Rank].ArenaBytes)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, a.Close()) }()
		p.Arenas[d.Rank] = a
	}
	for i := range p.Arenas {
		switch {
		case p.Arenas[i] != nil:
			continue
		case plan.Ranks[i].DP > 0: // a copy, whose first is there
			p.Arenas[i] = p.Arenas[i%(len(plan.Ranks)/max(plan.Options.Layout.DP, 1))]
			continue
		}
		a, release, err := j.sealed(i)
		if err != nil {
			return nil, err
		}
		defer release()
		p.Arenas[i] = a
	}
	m, err := model.New(p) // it is never closed: the arenas are not its own
	if err != nil {
		return nil, err
	}
	undo, err := outfile.MakeFolder(filepath.Dir(e.Path))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, undo())
		}
	}()
	if strings.HasSuffix(e.Path, ".gguf") {
		return m.ExportGGUF(ctx, e.Path)
	}
	return nil, m.Export(ctx, e.Path)
}

// dumpArena is a dump as a model reads it.
type dumpArena struct {
	f    *os.File
	size int64
}

// openDump opens a dump and checks it.
func openDump(ctx context.Context, d Dump, size int64) (*dumpArena, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, &recovery.Error{Class: recovery.NotFound, Op: "read rank", File: filepath.Dir(d.Path), Err: err,
			Hint: "the folder must be one that all workers reach under the same name"}
	}
	a := &dumpArena{f, size}
	h, buf := xxh3.New(), make([]byte, min(dumpStep, size))
	for at := int64(0); at < size && err == nil; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), size-at)]
		if err = context.Cause(ctx); err != nil {
			break
		}
		if err = a.CopyOut(buf, at); err == nil {
			h.Write(buf)
		}
	}
	if err == nil && h.Sum128().Bytes() != d.Digest {
		err = recovery.Errorf(recovery.DigestMismatch, "rank %d in %s is not what its worker wrote", d.Rank, d.Path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return a, nil
}

func (a *dumpArena) Device() string                      { return "file" }
func (a *dumpArena) Size() int64                         { return a.size }
func (a *dumpArena) Host() []byte                        { return nil }
func (a *dumpArena) Prefault(context.Context, int) error { return nil }
func (a *dumpArena) Hold() (func(), error)               { return func() {}, nil } // nobody uses a file where it lies
func (a *dumpArena) Close() error                        { return a.f.Close() }

func (a *dumpArena) CopyIn(int64, []byte) error {
	return recovery.Errorf(recovery.Internal, "the dump of a rank is not written to")
}

func (a *dumpArena) CopyOut(p []byte, off int64) error {
	if _, err := a.f.ReadAt(p, off); err != nil {
		return fmt.Errorf("read rank: %w", err)
	}
	return nil
}
