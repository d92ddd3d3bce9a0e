//go:build gpu || fakecuda

package gpu

import (
	"testing"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/ort"
	"github.com/gantry-ml/gantry/dtype"
	"github.com/gantry-ml/gantry/loader"
	"github.com/gantry-ml/gantry/model"
	"github.com/gantry-ml/gantry/model/session"
)

// graphOn loads the ONNX model of the test data on a device.
func graphOn(t *testing.T, id string) *model.Model {
	t.Helper()
	on, err := device.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	m, err := loader.New(loader.WithDevice(on)).Load(t.Context(), stories(t, "onnx-external"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// sessionOn opens a session over a model.
func sessionOn(t *testing.T, m *model.Model) *session.Session {
	t.Helper()
	s, err := session.Open(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// row is one input of the model.
func row() []ort.Tensor {
	x := ort.Tensor{Name: "x", Type: dtype.F32, Shape: []int64{1, 64}, Data: make([]byte, 256)}
	for i := range 64 {
		x.Data[4*i+2], x.Data[4*i+3] = byte(i), 0x3f // 0.5 to 1
	}
	return []ort.Tensor{x}
}
