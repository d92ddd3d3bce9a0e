//go:build gpu && !fakecuda

package gpu

import (
	"os"
	"testing"

	"github.com/gantry-ml/gantry/model"
)

func TestMain(m *testing.M) {
	if h := os.Getenv(envAttach); h != "" {
		os.Exit(told(attach(h)))
	}
	os.Exit(m.Run())
}

// On a real GPU nothing is counted.

func clean(*testing.T) {}

func watch(*testing.T) func(*model.Model) { return func(*model.Model) {} }
