// SPDX-License-Identifier: GPL-2.0-only
//! What a user would have without KVM: the same Linux guest, to its shell, by `wsvm` and by Debian's `qemu-system-arm`, which
//! translates the guest's instructions (TCG). Both run in one host, one after the other, from the same kernel and root file system.
//!
//! The host's clock counts instructions, and while it boots the guest hardly rests: what passes until the guest says that its
//! shell is there is what it costs.

use std::fmt;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::host::Host;
use crate::layout::Layout;
use crate::setup::emulator;

/// How many thousand million instructions a Linux guest needs to its shell.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ToTheShell {
    /// By wsvm, with KVM.
    pub wsvm: f64,
    /// By Debian's QEMU, without.
    pub emulated: f64,
}

/// `/proc/uptime` is in hundredths of a second; a nanosecond is an instruction.
const SCRIPT: &str = r#"
uptime() {
    read up idle </proc/uptime
    echo $up
}
# The console of a guest goes to a pipe until it says that its shell is there.
mkfifo /tmp/console
to_the_shell() {
    while IFS= read -r line; do
        case $line in *"This is the guest"*) return 0 ;; esac
    done
    return 1
}
start=$(uptime)
wsvm run --kernel /boot/vmlinuz --initrd /boot/guest.cpio --append "console=ttyS0 quiet" --mem 256M </dev/null >/tmp/console 2>&1 &
to_the_shell </tmp/console || exit 1
echo wsvm $start $(uptime)
kill -9 $!
wait
# QEMU's machine has another console. Its name goes into an archive of its own behind the guest's.
mkdir -p /tmp/guest/etc
cd /tmp/guest
cpio -i etc/worldswitch </boot/guest.cpio 2>/dev/null
sed -i s/ttyS0/ttyAMA0/ etc/worldswitch
cp /boot/guest.cpio /tmp/initrd
echo etc/worldswitch | cpio -o -H newc 2>/dev/null >>/tmp/initrd
start=$(uptime)
/opt/qemu/lib/ld-linux-armhf.so.3 --library-path /opt/qemu/lib /opt/qemu/qemu-system-arm -M virt -cpu cortex-a15 -m 256M \
    -nic none -display none -monitor none -serial stdio \
    -kernel /boot/vmlinuz -initrd /tmp/initrd -append "console=ttyAMA0 quiet" </dev/null >/tmp/console 2>&1 &
to_the_shell </tmp/console || exit 1
echo emulated $start $(uptime)
kill -9 $!
"#;

/// Boots both in `host`, which counts instructions.
pub fn measure(layout: &Layout, host: &mut Host) -> Result<ToTheShell> {
    let folder = {
        let _lock = layout.lock()?;
        emulator::ensure(layout)?
    };
    crate::progress("booting a Linux guest by wsvm, and again by QEMU without KVM (some minutes)");
    host.options.with = vec![format!("{}:/opt/qemu", folder.display())];
    host.options.smp = Some(1);
    host.options.timeout = 3600;
    let started = Instant::now();
    let mut told = started;
    let output = super::execute(layout, host, SCRIPT, &mut |_| {
        if told.elapsed() > Duration::from_secs(20) {
            told = Instant::now();
            crate::progress(&format!("still booting, for {} s", started.elapsed().as_secs()));
        }
        ControlFlow::Continue(())
    })?;
    host.options.with.clear();
    parse(&output)
}

fn parse(output: &str) -> Result<ToTheShell> {
    let took = |what: &str| {
        output.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [name, start, end] if name == what => Some(end.parse::<f64>().ok()? - start.parse::<f64>().ok()?),
                _ => None,
            }
        })
    };
    let missing = || format!("the host did not say when the guest's shell was there. It said:\n{output}");
    Ok(ToTheShell { wsvm: took("wsvm").with_context(missing)?, emulated: took("emulated").with_context(missing)? })
}

impl fmt::Display for ToTheShell {
    fn fmt(&self, to: &mut fmt::Formatter) -> fmt::Result {
        let ToTheShell { wsvm, emulated } = self;
        let ratio = emulated / wsvm;
        write!(
            to,
            "A Linux guest to its shell: {wsvm:.2} G instructions with wsvm; {emulated:.2} G with Debian's qemu-system-arm, \
             without KVM, {ratio:.1} times as many"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_says_becomes_a_ratio() {
        let output = "wsvm 1.50 5.00\nnoise\nemulated 5.25 40.25\n";
        let shell = parse(output).expect("parsed");
        assert_eq!(shell, ToTheShell { wsvm: 3.5, emulated: 35.0 });
        assert!(shell.to_string().ends_with("10.0 times as many"));
        assert!(parse("wsvm 1.50 5.00\n").is_err());
        assert!(parse("wsvm 1.50 x\nemulated 5.25 40.25\n").is_err());
    }
}
