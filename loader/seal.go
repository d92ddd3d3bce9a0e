package loader

import (
	"context"

	"github.com/gantry-ml/gantry/internal/job"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/recovery"
)

// SealReport is what sealing a rank found.
type SealReport struct {
	Digest     [16]byte // xxh3-128 over the digests of the rank's pieces, in chunk order
	Validation Validation
}

// Validation is the check of one rank.
type Validation = model.Validation

// Seal checks that every piece of the hold's rank is placed, validates the
// rank and freezes it. Sealed again, it answers with what it found.
func (n *Node) Seal(ctx context.Context, jobID string, h job.Hold) (SealReport, error) {
	j, err := n.job(jobID)
	if err != nil {
		return SealReport{}, err
	}
	defer j.leave()
	ctx, cancel := j.within(ctx)
	defer cancel(nil)
	r, err := j.hold(h)
	if err != nil {
		return SealReport{}, err
	}
	done, err := r.use()
	if err != nil {
		return SealReport{}, err
	}
	defer done()
	if s := r.report(); s != nil {
		return *s, nil
	}
	var s SealReport
	if s.Digest, err = r.digest(); err != nil {
		return SealReport{}, err
	}
	c := &checker{rank: r, encoded: j.encoded, staging: n.staging}
	if s.Validation, err = c.validate(ctx); err != nil {
		return SealReport{}, err
	}
	if j.spec.Validate {
		if err = c.readBack(ctx); err != nil {
			return SealReport{}, err
		}
		v := &s.Validation
		if v.Stored, v.Placed, err = c.nonFinite(ctx); err != nil {
			return SealReport{}, err
		}
		v.Counted = true
	}
	r.seal(s)
	n.staging.trim() // what follows a seal is rest
	return s, nil
}

// checker looks at the values of a rank that nobody writes any more.
type checker struct {
	rank    *rank
	encoded []encoded // by tensor of the plan
	staging *staging
}

// failed is the error of a rank whose values are not what was encoded.
func (c *checker) failed(tensor, format string, args ...any) error {
	e := recovery.Errorf(recovery.DigestMismatch, format, args...)
	e.Op, e.Tensor = "validate", tensor
	e.Hint = "memory or the library is faulty: run gantry doctor"
	return e
}
