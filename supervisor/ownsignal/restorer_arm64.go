package ownsignal

const restorerFlag = 0
