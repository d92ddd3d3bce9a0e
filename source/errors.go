package source

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/gantry-ml/gantry/recovery"
)

// fileError classifies what the system said about a path. What is no system
// error comes from os.Root and means that a link leads out of the folder.
func fileError(op, path string, err error) error {
	e := &recovery.Error{Class: recovery.Unavailable, Op: op, File: path, Err: err}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		e.Err = pe.Err // its path is the one that the message names already
	}
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		e.Class = recovery.NotFound
		e.Hint = "check the path"
	case errors.Is(err, fs.ErrPermission):
		e.Class = recovery.NotAllowed
		e.Hint = "check the file's permissions"
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG):
		e.Class = recovery.NotAllowed
	case !errors.As(err, &errno):
		e.Class = recovery.NotAllowed
		e.Err = errors.New("a link that leads out of the checkpoint's folder")
		e.Hint = "put the file itself into the folder, or name the folder that holds it"
	}
	return e
}

func outside(path string) error {
	return &recovery.Error{Class: recovery.NotAllowed, Op: "open", File: path,
		Err:  errors.New("outside the folders that this server may read"),
		Hint: "start it with --model-root for the folder that holds the model"}
}

func notRegular(path string) error {
	return &recovery.Error{Class: recovery.NotAllowed, Op: "open", File: path,
		Err: errors.New("neither a regular file nor a folder")}
}
