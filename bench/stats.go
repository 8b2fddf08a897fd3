package bench

import (
	"math"
	"slices"
)

// Spread sums up samples of one quantity.
type Spread struct {
	Median float64 `json:"median"`
	P10    float64 `json:"p10"`
	P90    float64 `json:"p90"`
	N      int     `json:"n"`
}

func spread(samples []float64) Spread {
	sorted := slices.Sorted(slices.Values(samples))
	return Spread{Median: quantile(sorted, 0.5), P10: quantile(sorted, 0.1), P90: quantile(sorted, 0.9), N: len(samples)}
}

// quantile interpolates between neighbours, so that few samples do not jump.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	low, high := sorted[int(math.Floor(at))], sorted[int(math.Ceil(at))]
	return low + (high-low)*(at-math.Floor(at))
}
