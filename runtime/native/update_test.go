package native

import (
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Of two equal devices the last one counts, since it is written last: that one is
// changed.
func TestChangeEqualDevices(t *testing.T) {
	weight := func(n uint16) *uint16 { return &n }
	r := &cgroups.Resources{
		BlkioWeightDevice: []*cgroups.WeightDevice{
			cgroups.NewWeightDevice(8, 0, 100, 10), cgroups.NewWeightDevice(8, 0, 200, 20), cgroups.NewWeightDevice(8, 16, 300, 30),
		},
		BlkioThrottleReadBpsDevice: []*cgroups.ThrottleDevice{
			cgroups.NewThrottleDevice(8, 0, 1000), cgroups.NewThrottleDevice(8, 0, 2000), cgroups.NewThrottleDevice(8, 16, 3000),
		},
	}
	weighted := specs.LinuxWeightDevice{Weight: weight(500)}
	weighted.Major = 8
	throttled := specs.LinuxThrottleDevice{Rate: 5000}
	throttled.Major = 8
	changeBlockIO(r, &specs.LinuxBlockIO{
		WeightDevice: []specs.LinuxWeightDevice{weighted}, ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttled},
	})
	for i, want := range []cgroups.WeightDevice{{Weight: 100, LeafWeight: 10}, {Weight: 500, LeafWeight: 20}, {Weight: 300, LeafWeight: 30}} {
		if got := r.BlkioWeightDevice[i]; got.Weight != want.Weight || got.LeafWeight != want.LeafWeight {
			t.Errorf("weight of device %d is %d and %d, want %d and %d", i, got.Weight, got.LeafWeight, want.Weight, want.LeafWeight)
		}
	}
	for i, want := range []uint64{1000, 5000, 3000} {
		if got := r.BlkioThrottleReadBpsDevice[i]; got.Rate != want {
			t.Errorf("rate of device %d is %d, want %d", i, got.Rate, want)
		}
	}
	if len(r.BlkioWeightDevice) != 3 || len(r.BlkioThrottleReadBpsDevice) != 3 {
		t.Error("a device was added")
	}
}
