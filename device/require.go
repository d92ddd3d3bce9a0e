package device

import "github.com/gantry-ml/gantry/require"

// Meeting returns the selected devices of this machine that have what is
// required, in the order asked for. Errors are those of Resolve and of
// require.Requirements.Check.
func (s Selection) Meeting(inv Inventory, r require.Requirements) ([]Info, error) {
	all, err := s.Resolve(inv)
	if err != nil {
		return nil, err
	}
	m := require.Machine{CPU: inv.CPU.Features}
	var meeting []Info
	for _, d := range all {
		has := require.Device{ID: d.ID, Compute: d.Compute, Free: d.Free}
		m.Devices = append(m.Devices, has)
		if r.CheckDevice(has) == nil {
			meeting = append(meeting, d)
		}
	}
	return meeting, r.Check(m)
}
