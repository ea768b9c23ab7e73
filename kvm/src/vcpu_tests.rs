// SPDX-License-Identifier: GPL-2.0-only
//! Kicks, against a thread that goes in and out of its guest; and the alarm.

use super::*;
use crate::fake;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

#[test]
fn a_new_vcpu_is_on_and_out() {
    let vcpu = Vcpu::new(&fake::Host::new()).unwrap();
    assert_eq!(vcpu.power(), Power { off: false, start: None });
    assert!(vcpu.kick_out(), "it will look by itself");
    vcpu.kick();
    assert_eq!((vcpu.waiter().wakes(), vcpu.waiter().kicks()), (0, 0));
}

/// Whatever is changed before a kick is seen by the vCPU before it sleeps, or wakes it.
#[test]
fn who_is_about_to_sleep_is_woken() {
    let vcpu = Vcpu::new(&fake::Host::new()).unwrap();
    let (looks, seen) = (Cell::new(0), Cell::new(None));
    let wake = vcpu.sleep_until(|| {
        looks.set(looks.get() + 1);
        if looks.get() == 1 {
            seen.set(Some(vcpu.kick_out()));
            vcpu.kick();
        }
        looks.get() == 2
    });
    assert_eq!((wake, seen.get(), vcpu.waiter().wakes()), (Wake::Ready, Some(false), 1));
    vcpu.kick();
    assert_eq!(vcpu.waiter().wakes(), 1, "it is up");
}

/// Whatever is changed before a kick is seen by the vCPU before it enters, or kicks it out.
#[test]
fn no_change_is_missed() {
    const CHANGES: usize = if cfg!(miri) { 100 } else { 20_000 };
    let vcpu = Arc::new(Vcpu::new(&fake::Host::new()).unwrap());
    let changes = Arc::new(AtomicUsize::new(0));
    let other = {
        let (vcpu, changes) = (vcpu.clone(), changes.clone());
        std::thread::spawn(move || {
            for change in 1..=CHANGES {
                changes.store(change, Ordering::Relaxed);
                vcpu.kick();
            }
        })
    };
    let mut missed = 0;
    while !other.is_finished() {
        let kicks = vcpu.waiter().kicks();
        vcpu.set_in_guest(true);
        let seen = changes.load(Ordering::Relaxed);
        // The guest runs until it is kicked, or everything was seen.
        let mut patience = 0u64;
        while seen != CHANGES && vcpu.waiter().kicks() == kicks {
            std::thread::yield_now();
            patience += 1;
            if patience > 100_000_000 || other.is_finished() {
                missed += usize::from(vcpu.waiter().kicks() == kicks);
                break;
            }
        }
        vcpu.set_in_guest(false);
    }
    other.join().unwrap();
    assert_eq!(missed, 0);
}

#[test]
fn an_alarm_is_set_anew_and_forgotten() {
    let host = fake::Host::new();
    let vcpu = Vcpu::new(&host).unwrap();
    let alarm = Alarm::new(&host, vcpu.waiter()).unwrap();
    let due = || alarm.timer.due();
    alarm.set(None);
    alarm.set(Some(100));
    assert_eq!(due(), Some(100));
    // It fires before its time.
    host.advance_to(100);
    assert_eq!((due(), vcpu.waiter().wakes()), (None, 1));
    host.advance_to(99);
    alarm.set(Some(100));
    assert_eq!(due(), Some(100));
    alarm.set(Some(200));
    host.advance_to(100);
    assert_eq!(vcpu.waiter().wakes(), 1);
    alarm.set(None);
    host.advance_to(1_000);
    assert_eq!((due(), vcpu.waiter().wakes()), (None, 1));
    // For the past: at once.
    alarm.set(Some(5));
    assert_eq!(vcpu.waiter().wakes(), 2);
}

#[test]
fn all_registers_are_reached_through_one() {
    let host = fake::Host::new();
    let vcpu = Vcpu::new(&host).unwrap();
    let mut state = VcpuState::new(&host, vcpu.waiter()).unwrap();
    assert!(!state.initialised && state.pending.is_none());
    state.registers().context.pc = 4;
    *state.registers().orig_r0 = 5;
    assert_eq!((state.context.pc, state.orig_r0), (4, 5));
}
