package header

import (
	"errors"

	"github.com/gantry-ml/gantry/recovery"
)

// InFile names the file in an error of a parser, which does not know it.
func InFile(err error, name string) error {
	var e *recovery.Error
	if errors.As(err, &e) && e.File == "" {
		e.Op, e.File = "open", name
	}
	return err
}

// BadTensor returns an invalid_checkpoint error about a tensor.
func BadTensor(name, format string, args ...any) error {
	e := recovery.Errorf(recovery.InvalidCheckpoint, format, args...)
	e.Tensor = name
	return e
}
