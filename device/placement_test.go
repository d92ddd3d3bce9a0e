package device

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxh100"

	"github.com/gantry-ml/gantry/placement"
)

// TestEightGPUs: tp 4 × dp 2 on eight mocked H100s on two NUMA nodes. The
// picture is in testdata/eight_gpus.txt; package placement draws many more.
func TestEightGPUs(t *testing.T) {
	root := twoNodes()
	for i := range 8 {
		root[fmt.Sprintf("sys/bus/pci/devices/0000:%02x:00.0/numa_node", 16*(i+1))] = &fstest.MapFile{Data: []byte(fmt.Sprintln(i / 4))}
	}
	s := dgxh100.New()
	complete(s, 18)
	var devices []placement.Device
	for _, g := range detect(root, s, noEnv).GPUs {
		d := g.Info()
		devices = append(devices, placement.Device{Worker: "a", ID: d.ID, Free: d.Free, Ranks: -1, NUMA: d.NUMA, Peers: d.NVLinkPeers})
	}
	var ranks []placement.Rank
	for i := range 8 {
		ranks = append(ranks, placement.Rank{Group: i / 4, Replica: i / 4, Bytes: 60 << 30, Home: -1})
	}
	got := draw(devices, placement.Assign(ranks, devices))
	want, err := os.ReadFile("testdata/eight_gpus.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("placed so:\n%s\nwant:\n%s", got, want)
	}
	// 70 GiB are free of each, and no more than that without its head-room.
	for i := range ranks {
		ranks[i].Bytes = 67 << 30
	}
	if found := placement.Assign(ranks, devices); found[0] != -1 {
		t.Errorf("67 of 70 free GiB are given away: %v", found)
	}
}

// draw shows which rank lies where, for people.
func draw(devices []placement.Device, found []int) string {
	var out strings.Builder
	for i, d := range devices {
		if i == 0 || d.NUMA != devices[i-1].NUMA {
			fmt.Fprintf(&out, "NUMA node %d\n", d.NUMA)
		}
		fmt.Fprintf(&out, "  %s  %d GiB free for arenas, NVLink to %d\n", d.ID, d.Free>>30, len(d.Peers))
		for r, at := range found {
			if at == i {
				fmt.Fprintf(&out, "    rank %d: dp %d, tp %d\n", r, r/4, r%4)
			}
		}
	}
	return out.String()
}
