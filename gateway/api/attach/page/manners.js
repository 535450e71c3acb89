// When this device may draft: in a visible tab, not on little battery, not on a metered connection, unless the user allows it.

const LOW_BATTERY = 0.3;

/**
 * What the user allows beyond a visible tab on a good connection.
 * @typedef {{background: boolean, metered: boolean, battery: boolean}} Allowed
 * @typedef {{charging: boolean, level: number}} Battery
 */

/**
 * Why drafting pauses, for the user; "" while it may go on.
 * @param {{hidden: boolean, battery: Battery | null, connection: {saveData?: boolean, type?: string} | undefined}} device
 * @param {Allowed} allowed
 */
export function pauseReason({ hidden, battery, connection }, allowed) {
  if (hidden && !allowed.background) return "Paused: this tab is in the background.";
  if (battery && !battery.charging && battery.level < LOW_BATTERY && !allowed.battery) return "Paused: the battery is low.";
  if (connection?.saveData && !allowed.metered) return "Paused: this browser is asked to save data.";
  if (connection?.type === "cellular" && !allowed.metered) return "Paused: this connection is metered.";
  return "";
}

/** Watches the device, and keeps a phone's screen on while it drafts. */
export class Manners {
  /** @type {Battery | null} */
  #battery = null;
  /** @type {any} */
  #lock = null;
  #wanted = false;
  #asking = false;
  #drafting = false;

  /**
   * @param {() => Allowed} allowed
   * @param {(reason: string) => void} onChange called whenever something changes that may matter
   */
  constructor(allowed, onChange) {
    this.allowed = allowed;
    this.onChange = onChange;
    /** @type {any} */
    this.device = navigator;
    document.addEventListener("visibilitychange", () => this.update());
    this.device.connection?.addEventListener?.("change", () => this.update());
    this.device.getBattery?.().then((/** @type {Battery & EventTarget} */ battery) => {
      this.#battery = battery;
      battery.addEventListener("levelchange", () => this.update());
      battery.addEventListener("chargingchange", () => this.update());
      this.update();
    });
  }

  get reason() {
    const { connection } = this.device;
    return pauseReason({ hidden: document.hidden, battery: this.#battery, connection }, this.allowed());
  }

  /** @param {boolean} drafting */
  setDrafting(drafting) {
    this.#drafting = drafting;
    this.update();
  }

  update() {
    this.onChange(this.reason);
    void this.#keepScreenOn(this.#drafting && !this.reason && !document.hidden);
  }

  /** @param {boolean} on */
  async #keepScreenOn(on) {
    if (!this.device.wakeLock || !matchMedia("(pointer: coarse)").matches) return;
    this.#wanted = on;
    if (this.#asking) return; // what is wanted then is seen to when the browser has answered
    if (on && (!this.#lock || this.#lock.released)) {
      this.#asking = true;
      this.#lock = await this.device.wakeLock.request("screen").catch(() => null); // refused, such as on little battery
      this.#asking = false;
    }
    if (!this.#wanted) {
      const lock = this.#lock;
      this.#lock = null;
      await lock?.release();
    }
  }
}
