//go:build gpu && !fakecuda

package gpu

import (
	"testing"

	"github.com/gantry-ml/gantry/model"
)

// On a real GPU nothing is counted.

func clean(*testing.T) {}

func watch(*testing.T) func(*model.Model) { return func(*model.Model) {} }
