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
	_, err := device.NewArena("cuda:9999", 1)
	if recovery.ClassOf(err) != recovery.OutOfCapacity || !strings.Contains(err.Error(), "use device cuda:9999: ") || strings.Contains(err.Error(), "\n") {
		t.Errorf("cuda:9999: %v, want out_of_capacity and one line that says what is missing", err)
	}
	for _, id := range []string{"tpu", "cuda:", "cuda:-1", ""} {
		if _, err = device.NewArena(id, 1); recovery.ClassOf(err) != recovery.Usage {
			t.Errorf("%q: %v, want class usage", id, err)
		}
	}
}
