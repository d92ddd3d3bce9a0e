package device_test

import (
	"strings"
	"testing"

	"github.com/gantry-ml/gantry/device"
	"github.com/gantry-ml/gantry/device/devicetest"
	"github.com/gantry-ml/gantry/recovery"
)

func TestCPUArena(t *testing.T) { devicetest.Run(t, device.CPU, device.NewArena) }

func TestNewArenaElsewhere(t *testing.T) {
	_, err := device.NewArena("cuda:0", 1)
	if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), "places on CPU only") {
		t.Errorf("cuda:0: %v, want out_of_capacity that says that this build places on CPU only", err)
	}
	if _, err = device.NewArena("tpu", 1); recovery.ClassOf(err) != recovery.Usage {
		t.Errorf("tpu: %v, want class usage", err)
	}
}
