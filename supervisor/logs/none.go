package logs

// noneDriver keeps nothing.
var noneDriver = driver{names: []string{"none", "off", "null"}}
