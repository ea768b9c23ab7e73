// SPDX-License-Identifier: GPL-2.0-only
//! The virtual timer: its interrupt comes while the guest spins, while it waits, and while interrupts are masked; its counter runs.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::test::Verdict;
use guests::{check, check_eq, exceptions, gic, guest, mmio, sysreg, timer};

guest!(
    the_counter_starts_near_zero_and_runs,
    it_fires_into_a_spinning_guest,
    it_wakes_a_waiting_guest,
    it_fires_a_hundred_times,
    masked_at_the_timer_it_stays_away,
    disabled_at_the_distributor_it_stays_pending,
    it_is_level_sensitive,
);

// Loads and stores alone: with the MMU off, memory has no exclusive monitor.
static COUNT: AtomicU32 = AtomicU32::new(0);
static LAST: AtomicU32 = AtomicU32::new(0);

const SECOND: u32 = 1_000_000;

fn count_and_silence(interrupt: u32) {
    LAST.store(interrupt, Relaxed);
    COUNT.store(COUNT.load(Relaxed) + 1, Relaxed);
    timer::off();
}

fn listen() {
    gic::enable();
    gic::set_priority(gic::VIRTUAL_TIMER, 0x80);
    gic::enable_private(gic::VIRTUAL_TIMER);
    COUNT.store(0, Relaxed);
    LAST.store(0, Relaxed);
    exceptions::on_irq(count_and_silence);
}

fn stop_listening() {
    sysreg::mask_irq();
    timer::off();
    gic::disable_private(gic::VIRTUAL_TIMER);
}

fn the_counter_starts_near_zero_and_runs() -> Verdict {
    let first = sysreg::cntvct::read();
    let hertz = sysreg::cntfrq::read();
    check!(hertz >= 1_000_000, "CNTFRQ is {hertz}");
    check!(first < u64::from(hertz) * 600, "CNTVCT is {first}: not this machine's own time");
    check!(timer::wait_until(SECOND, || sysreg::cntvct::read() > first), "CNTVCT stands still");
    Ok(())
}

fn it_fires_into_a_spinning_guest() -> Verdict {
    listen();
    // Before the timer is set, not after: the vCPU may rest between the two for any time.
    let due = sysreg::cntvct::read() + u64::from(timer::ticks(1000));
    timer::fire_in(1000);
    sysreg::unmask_irq();
    let fired = timer::wait_until(2 * SECOND, || COUNT.load(Relaxed) > 0);
    let now = sysreg::cntvct::read();
    stop_listening();
    check!(fired, "no interrupt in two seconds");
    check_eq!("the interrupt's number", LAST.load(Relaxed), gic::VIRTUAL_TIMER);
    check_eq!("how often it came", COUNT.load(Relaxed), 1);
    check!(now + 1 >= due, "it came {} ticks early", due - now);
    Ok(())
}

fn it_wakes_a_waiting_guest() -> Verdict {
    listen();
    let start = sysreg::cntvct::read();
    timer::fire_in(20_000);
    // Masked: the interrupt wakes, but is not taken.
    while timer::ISTATUS & sysreg::cntv_ctl::read() == 0
        && sysreg::cntvct::read() - start < u64::from(timer::ticks(2 * SECOND))
    {
        sysreg::wfi();
    }
    let status = sysreg::cntv_ctl::read();
    let pending = mmio::read32(gic::GICD_ISPENDR) >> gic::VIRTUAL_TIMER & 1;
    check_eq!("the count while masked", COUNT.load(Relaxed), 0);
    sysreg::unmask_irq();
    let taken = timer::wait_until(SECOND, || COUNT.load(Relaxed) > 0);
    stop_listening();
    check_eq!("CNTV_CTL after the wait", status & 7, timer::ENABLE | timer::ISTATUS);
    check_eq!("GICD_ISPENDR0's bit", pending, 1);
    check!(taken, "the interrupt did not come once it was let through");
    Ok(())
}

fn it_fires_a_hundred_times() -> Verdict {
    listen();
    sysreg::unmask_irq();
    for round in 1..=100 {
        timer::fire_in(100);
        // Half of the rounds wait, half spin.
        let come = timer::wait_until(2 * SECOND, || {
            if round % 2 == 0 && COUNT.load(Relaxed) < round {
                sysreg::mask_irq();
                if COUNT.load(Relaxed) < round {
                    sysreg::wfi();
                }
                sysreg::unmask_irq();
            }
            COUNT.load(Relaxed) >= round
        });
        if !come || COUNT.load(Relaxed) != round {
            stop_listening();
            check!(false, "after round {round} {} interrupts have come", COUNT.load(Relaxed));
        }
    }
    stop_listening();
    Ok(())
}

fn masked_at_the_timer_it_stays_away() -> Verdict {
    listen();
    sysreg::unmask_irq();
    sysreg::cntv_tval::write(timer::ticks(100));
    sysreg::cntv_ctl::write(timer::ENABLE | timer::IMASK);
    let came = timer::wait_until(10_000, || COUNT.load(Relaxed) > 0);
    let status = sysreg::cntv_ctl::read() & 7;
    stop_listening();
    check!(!came, "it came");
    check_eq!("CNTV_CTL", status, timer::ENABLE | timer::IMASK | timer::ISTATUS);
    Ok(())
}

fn disabled_at_the_distributor_it_stays_pending() -> Verdict {
    listen();
    gic::disable_private(gic::VIRTUAL_TIMER);
    sysreg::unmask_irq();
    timer::fire_in(100);
    let came = timer::wait_until(10_000, || COUNT.load(Relaxed) > 0);
    let pending = mmio::read32(gic::GICD_ISPENDR) >> gic::VIRTUAL_TIMER & 1;
    gic::enable_private(gic::VIRTUAL_TIMER);
    let comes = timer::wait_until(SECOND, || COUNT.load(Relaxed) > 0);
    stop_listening();
    check!(!came, "it came although disabled");
    check_eq!("its pending bit", pending, 1);
    check!(comes, "it did not come once enabled");
    Ok(())
}

fn only_count(interrupt: u32) {
    LAST.store(interrupt, Relaxed);
    let count = COUNT.load(Relaxed) + 1;
    COUNT.store(count, Relaxed);
    if count == 5 {
        timer::off();
    }
}

fn it_is_level_sensitive() -> Verdict {
    listen();
    exceptions::on_irq(only_count);
    timer::fire_in(100);
    sysreg::unmask_irq();
    let fired = timer::wait_until(2 * SECOND, || COUNT.load(Relaxed) >= 5);
    timer::wait_until(10_000, || false);
    stop_listening();
    check!(fired, "left asserted, it came {} times", COUNT.load(Relaxed));
    check_eq!("how often it came", COUNT.load(Relaxed), 5);
    Ok(())
}
