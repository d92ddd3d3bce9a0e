package device

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// show leaves the GPUs that CUDA_VISIBLE_DEVICES shows, and numbers them as
// CUDA does, so that cuda:0 is the first of them.
func (inv *Inventory) show(list string) {
	inv.Visible = list
	all := inv.GPUs
	if len(all) == 0 {
		return
	}
	if inv.GPUs = visible(all, list); len(inv.GPUs) == 0 {
		inv.GPUs = []GPU{}
		inv.NoGPU = fmt.Sprintf("CUDA_VISIBLE_DEVICES=%q shows none of the %d GPUs", list, len(all))
	}
}

// visible returns the listed GPUs, in the list's order. An entry is an index, a
// UUID or its beginning, or the UUID of a MIG instance. As in CUDA, what
// follows an entry that is none of that is not shown, and a list that names one
// twice shows nothing.
func visible(all []GPU, list string) []GPU {
	var out []GPU
	ids := map[string]string{} // from id among all to id among out
	for entry := range strings.SplitSeq(list, ",") {
		g, ok := named(all, strings.TrimSpace(entry))
		if !ok {
			break
		}
		if slices.ContainsFunc(out, func(o GPU) bool { return o.UUID == g.UUID && g.UUID != "" }) {
			return nil
		}
		id := cudaPrefix + strconv.Itoa(len(out))
		ids[g.ID], g.ID = id, id
		out = append(out, g)
	}
	for i, g := range out {
		var peers []string
		for _, p := range g.NVLinkPeers {
			if id, ok := ids[p]; ok {
				peers = append(peers, id)
			}
		}
		out[i].NVLinkPeers = peers
	}
	return out
}

// named returns the GPU, or the MIG instance as one, that an entry of
// CUDA_VISIBLE_DEVICES names.
func named(all []GPU, entry string) (GPU, bool) {
	if entry == "" {
		return GPU{}, false
	}
	n, err := strconv.Atoi(entry)
	for i, g := range all {
		for _, m := range g.Instances {
			if strings.HasPrefix(entry, "MIG-") && m.UUID == entry {
				g.ID, g.UUID, g.Name, g.Total, g.Free = "", m.UUID, m.Name, m.Total, m.Free
				g.MIG, g.Instances, g.NVLinks, g.NVLinkPeers = false, nil, 0, nil
				return g, true
			}
		}
		if err == nil && n == i || strings.HasPrefix(entry, "GPU-") && strings.HasPrefix(g.UUID, entry) {
			return g, true
		}
	}
	return GPU{}, false
}
