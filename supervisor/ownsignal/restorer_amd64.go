package ownsignal

const restorerFlag = saRestorer
