package loader

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/cpuid/v2"
	"github.com/zeebo/xxh3"

	"github.com/gantry-ml/gantry/checkpoint/digests"
	"github.com/gantry-ml/gantry/recovery"
)

// atOnce says that a whole unit is hashed by one call, which prefetches. From
// memory that runs at 20 GB/s on an Intel Xeon with AMX where a Hasher runs at
// 13; on an AMD EPYC (Zen 4) the Hasher is twice as fast.
var atOnce = cpuid.CPU.VendorID == cpuid.Intel

// check compares what a chunk reads with the checkpoint's digests, while it is
// in the cache. Chunks end at units wherever they can; where one does not, the
// rest of its first or last unit is read besides, so that all that is used has
// been checked. The zero value checks nothing.
type check struct {
	file   string // its name
	set    *digests.Set
	tensor *digests.Tensor // of the open unit
	name   string          // the tensor's
	next   int64           // offset in the tensor that was hashed up to
	open   bool            // a unit is begun and not ended
	hash   xxh3.Hasher
	// more reads bytes besides the chunk's, which lie at off of the file.
	more func(ctx context.Context, p []byte, off int64) error
}

// begin sees to it that what lies at off of the tensor at start of the file
// can be checked once it is read: a unit that begins before is hashed up to
// there, one that goes on elsewhere is ended first.
func (c *check) begin(ctx context.Context, name string, start, off int64) error {
	if c.set == nil || c.open && c.tensor.Offset == start && c.next == off {
		return nil
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	c.tensor, c.name = c.set.Tensor(c.file, start), name
	if c.tensor == nil || off >= c.tensor.Bytes {
		return c.unknown(start, off)
	}
	_, first, _ := c.tensor.At(off)
	c.next = first
	if first == off {
		return nil
	}
	head := make([]byte, off-first)
	if err := c.more(ctx, head, start+first); err != nil {
		return err
	}
	return c.add(head)
}

// add checks p, which follows on what was checked before.
func (c *check) add(p []byte) error {
	if c.set == nil {
		return nil
	}
	for len(p) > 0 {
		if c.next >= c.tensor.Bytes {
			return c.unknown(c.tensor.Offset, c.next)
		}
		i, start, stop := c.tensor.At(c.next)
		n := min(int64(len(p)), stop-c.next)
		part := p[:n]
		p, c.next = p[n:], c.next+n
		var got uint64
		if atOnce && n == stop-start {
			got = xxh3.Hash(part)
		} else {
			if !c.open {
				c.hash.Reset()
			}
			c.hash.Write(part)
			if c.open = c.next < stop; c.open {
				continue
			}
			got = c.hash.Sum64()
		}
		if want := binary.BigEndian.Uint64(c.tensor.Sums[8*i:]); got != want {
			return mismatch(c.file, c.name, c.tensor.Offset+start, stop-start, got, want)
		}
	}
	return nil
}

// end reads what is left of an open unit.
func (c *check) end(ctx context.Context) error {
	if !c.open {
		return nil
	}
	_, _, stop := c.tensor.At(c.next - 1)
	rest := make([]byte, stop-c.next)
	if err := c.more(ctx, rest, c.tensor.Offset+c.next); err != nil {
		return err
	}
	return c.add(rest)
}

func (c *check) unknown(start, off int64) error {
	return &recovery.Error{Class: recovery.DigestMismatch, Op: "verify", File: c.file, Tensor: c.name, Offset: start + off, Length: 1,
		Err: fmt.Errorf("%s has digests of this file, but not of these bytes", digests.Name), Hint: staleHint}
}

const staleHint = "restore the file; or, if it was changed on purpose, run gantry verify --write"

func mismatch(file, tensor string, off, n int64, got, want uint64) error {
	return &recovery.Error{Class: recovery.DigestMismatch, Op: "verify", File: file, Tensor: tensor, Offset: off, Length: n,
		Err: fmt.Errorf("xxh3 %016x, %s says %016x", got, digests.Name, want), Hint: staleHint}
}

// headOf checks the bytes of a file before its first tensor.
func headOf(ctx context.Context, f *digests.File, read func(ctx context.Context, p []byte, off int64) error) error {
	h, buf := xxh3.New(), make([]byte, min(f.HeadBytes, slabBytes))
	for at := int64(0); at < f.HeadBytes; {
		p := buf[:min(int64(len(buf)), f.HeadBytes-at)]
		if err := read(ctx, p, at); err != nil {
			return err
		}
		h.Write(p)
		at += int64(len(p))
	}
	if got, want := h.Sum64(), binary.BigEndian.Uint64(f.Head[:]); got != want {
		return mismatch(f.Name, "", 0, f.HeadBytes, got, want)
	}
	return nil
}

// readDigests reads what the source has, and sees to it that it was written
// for the checkpoint that was planned. Files that it does not know all tensors
// of are not checked.
func (j *nodeJob) readDigests(ctx context.Context) (err error) {
	plan := j.spec.Plan
	j.covered = make([]bool, len(plan.Files))
	if j.digests, err = digests.Read(ctx, j.src); err != nil || j.digests == nil {
		return err
	}
	for i, f := range plan.Files {
		if d := j.digests.File(f.Name); d != nil {
			j.covered[i] = true
			if d.Size != f.Size {
				return stale(f.Name, "", "it has %d bytes, %s says %d", f.Size, digests.Name, d.Size)
			}
		}
	}
	for i := range plan.Tensors {
		t := &plan.Tensors[i]
		for k, run := range t.Runs() {
			if !j.covered[run.File] || run.Bytes == 0 {
				continue
			}
			name := plan.Files[run.File].Name
			switch d := j.digests.Tensor(name, run.Offset); {
			case d == nil:
				j.covered[run.File] = false
			case d.Bytes != run.Bytes || k == 0 && d.DType != t.DType:
				return stale(name, t.Name, "%s says that another tensor is there", digests.Name)
			}
		}
	}
	return nil
}

func stale(file, tensor, format string, args ...any) error {
	return &recovery.Error{Class: recovery.DigestMismatch, Op: "verify", File: file, Tensor: tensor, Err: fmt.Errorf(format, args...), Hint: staleHint}
}

// digestsOf returns the digests that a file of the plan is checked with, nil
// where there are none.
func (j *nodeJob) digestsOf(file int) *digests.Set {
	if !j.covered[file] {
		return nil
	}
	return j.digests
}
