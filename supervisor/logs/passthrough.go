package logs

// passthroughDriver leaves the output to the caller of gracemon.
var passthroughDriver = driver{names: []string{"passthrough"}, passthrough: true}
