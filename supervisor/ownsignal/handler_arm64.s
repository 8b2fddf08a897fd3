#include "textflag.h"

// handler is entered from the kernel with the signal's number in R0; R30 leads
// to rt_sigreturn in the vDSO, which puts all registers back.
TEXT handler<>(SB), NOSPLIT|NOFRAME|TOPFRAME, $0
	MOVD	$·units(SB), R1
	ADD	R0<<3, R1, R1
	MOVW	·wake(SB), R0
	MOVD	$8, R2
	MOVD	$64, R8 // write
	SVC
	RET

// func handlerPC() uintptr
TEXT ·handlerPC(SB), NOSPLIT, $0-8
	MOVD	$handler<>(SB), R0
	MOVD	R0, ret+0(FP)
	RET

// func restorerPC() uintptr
TEXT ·restorerPC(SB), NOSPLIT, $0-8
	MOVD	ZR, ret+0(FP)
	RET
