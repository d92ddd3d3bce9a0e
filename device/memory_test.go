package device

import (
	"testing"
	"testing/fstest"
)

const meminfo = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\nHugePages_Total:   0\n"

func TestReadMemory(t *testing.T) {
	const total, available = 1000 << 10, 600 << 10
	for _, tt := range []struct {
		name        string
		files       map[string]string
		limit, free int64
	}{
		{"no control groups", nil, 0, available},
		{"v2 without a limit", map[string]string{
			"proc/self/cgroup":                  "0::/a\n",
			"sys/fs/cgroup/a/memory.max":        "max\n",
			"sys/fs/cgroup/a/memory.current":    "5\n",
			"sys/fs/cgroup/cgroup.controllers":  "memory\n",
			"sys/fs/cgroup/a/irrelevant.folder": "",
		}, 0, available},
		{"v2, its cache is free", map[string]string{
			"proc/self/cgroup":                 "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max":     "400000\n",
			"sys/fs/cgroup/a/b/memory.current": "150000\n",
			"sys/fs/cgroup/a/b/memory.stat":    "anon 100000\nfile 50000\nactive_file 20000\ninactive_file 10000\n",
		}, 400000, 280000},
		{"v2, an ancestor's limit binds", map[string]string{
			"proc/self/cgroup":               "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max":   "500000\n",
			"sys/fs/cgroup/a/memory.max":     "300000\n",
			"sys/fs/cgroup/a/memory.current": "290000\n",
		}, 300000, 10000},
		{"v2 in a container that sees only its own", map[string]string{
			"proc/self/cgroup":             "0::/kubepods/pod1/c1\n",
			"sys/fs/cgroup/memory.max":     "200000\n",
			"sys/fs/cgroup/memory.current": "50000\n",
		}, 200000, 150000},
		{"v1", map[string]string{
			"proc/self/cgroup": "9:cpu:/x\n4:memory:/a\n0::/\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "300000\n",
			"sys/fs/cgroup/memory/a/memory.usage_in_bytes": "250000\n",
			"sys/fs/cgroup/memory/a/memory.stat":           "inactive_file 1\ntotal_inactive_file 30000\ntotal_active_file 10000\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n",
			"sys/fs/cgroup/memory/memory.usage_in_bytes":   "1\n",
		}, 300000, 90000},
		{"over its limit", map[string]string{
			"proc/self/cgroup":             "0::/\n",
			"sys/fs/cgroup/memory.max":     "200000\n",
			"sys/fs/cgroup/memory.current": "200001\n",
		}, 200000, 0},
		{"a limit above what there is", map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "99999999999\n",
		}, 0, available},
		{"nonsense", map[string]string{
			"proc/self/cgroup":         "\n:\n0::\nx:memory\n",
			"sys/fs/cgroup/memory.max": "-3\n",
		}, 0, available},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := fstest.MapFS{"proc/meminfo": {Data: []byte(meminfo)}}
			for name, text := range tt.files {
				root[name] = &fstest.MapFile{Data: []byte(text)}
			}
			got, err := readMemory(root)
			want := Memory{Total: total, Available: available, Limit: tt.limit, Free: tt.free}
			if err != nil || got != want {
				t.Errorf("%+v, %v; want %+v", got, err, want)
			}
		})
	}
	if _, err := readMemory(fstest.MapFS{}); err == nil {
		t.Error("no proc/meminfo is no error")
	}
	if _, err := readMemory(fstest.MapFS{"proc/meminfo": {Data: []byte("MemTotal: x kB\n")}}); err == nil {
		t.Error("a meminfo without numbers is no error")
	}
}
