// SPDX-License-Identifier: GPL-2.0-only
//! Software-generated interrupts that a vCPU sends itself: number, order by priority, nesting of states, spurious acknowledgement.
#![no_std]
#![no_main]

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::test::Verdict;
use guests::{check, check_eq, exceptions, gic, guest, mmio, sysreg, timer};

guest!(
    nothing_pending_is_spurious,
    each_comes_once,
    the_higher_priority_comes_first,
    all_sixteen_at_once,
    masked_by_priority,
    active_until_ended
);

static COUNT: AtomicU32 = AtomicU32::new(0);
static SEEN: AtomicU32 = AtomicU32::new(0);

fn note(interrupt: u32) {
    COUNT.store(COUNT.load(Relaxed) + 1, Relaxed);
    SEEN.store(SEEN.load(Relaxed) | 1 << (interrupt & 31), Relaxed);
}

fn listen() {
    gic::enable();
    for number in 0..16 {
        gic::set_priority(number, 0x80);
    }
    COUNT.store(0, Relaxed);
    SEEN.store(0, Relaxed);
    exceptions::on_irq(note);
}

fn came(count: u32) -> bool {
    timer::wait_until(1_000_000, || COUNT.load(Relaxed) >= count)
}

fn nothing_pending_is_spurious() -> Verdict {
    listen();
    check_eq!("GICC_IAR", gic::acknowledge(), gic::SPURIOUS);
    check_eq!("GICC_HPPIR", mmio::read32(gic::GICC_HPPIR) & 0x3ff, gic::SPURIOUS);
    Ok(())
}

fn each_comes_once() -> Verdict {
    for number in 0..16 {
        listen();
        sysreg::unmask_irq();
        gic::send_to_self(number);
        let it_came = came(1);
        timer::wait_until(100, || false);
        sysreg::mask_irq();
        check!(it_came, "SGI {number} did not come");
        check_eq!("how often it came", COUNT.load(Relaxed), 1);
        check_eq!("which came", SEEN.load(Relaxed), 1 << number);
    }
    Ok(())
}

fn the_higher_priority_comes_first() -> Verdict {
    listen();
    gic::set_priority(1, 0xa0);
    gic::set_priority(2, 0x20);
    gic::set_priority(3, 0x60);
    for number in [1, 2, 3] {
        gic::send_to_self(number);
    }
    check_eq!("the highest pending", mmio::read32(gic::GICC_HPPIR) & 0x3ff, 2);
    for expected in [2, 3, 1] {
        let acknowledged = gic::acknowledge();
        check_eq!("the next", acknowledged & 0x3ff, expected);
        gic::end(acknowledged);
    }
    check_eq!("after the last", gic::acknowledge(), gic::SPURIOUS);
    Ok(())
}

fn all_sixteen_at_once() -> Verdict {
    // More than there are list registers.
    listen();
    for number in 0..16 {
        gic::send_to_self(number);
    }
    sysreg::unmask_irq();
    let all = came(16);
    timer::wait_until(100, || false);
    sysreg::mask_irq();
    check!(all, "{} of 16 came: {:#x}", COUNT.load(Relaxed), SEEN.load(Relaxed));
    check_eq!("how many came", COUNT.load(Relaxed), 16);
    check_eq!("which came", SEEN.load(Relaxed), 0xffff);
    Ok(())
}

fn masked_by_priority() -> Verdict {
    listen();
    mmio::write32(gic::GICC_PMR, 0x80); // only what is higher, a smaller number, passes
    sysreg::unmask_irq();
    gic::send_to_self(5);
    let early = timer::wait_until(5_000, || COUNT.load(Relaxed) > 0);
    mmio::write32(gic::GICC_PMR, 0xff);
    let late = came(1);
    sysreg::mask_irq();
    check!(!early, "it passed the mask");
    check!(late, "it did not come once the mask was opened");
    Ok(())
}

fn active_until_ended() -> Verdict {
    listen();
    gic::send_to_self(7);
    let acknowledged = gic::acknowledge();
    check_eq!("what was acknowledged", acknowledged & 0x3ff, 7);
    check_eq!("the running priority", mmio::read32(gic::GICC_RPR) & 0xff, 0x80);
    check_eq!("its active bit", mmio::read32(gic::GICD_ISACTIVER) >> 7 & 1, 1);
    gic::send_to_self(7); // pending again while active
    check_eq!("while it is active", gic::acknowledge(), gic::SPURIOUS);
    gic::end(acknowledged);
    let again = gic::acknowledge();
    check_eq!("once ended", again & 0x3ff, 7);
    gic::end(again);
    check_eq!("its active bit at the end", mmio::read32(gic::GICD_ISACTIVER) >> 7 & 1, 0);
    check_eq!("the idle priority", mmio::read32(gic::GICC_RPR) & 0xff, 0xff);
    Ok(())
}
